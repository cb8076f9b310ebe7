"""Words of times: names of months, days and zones, in several languages.

Words have small letters and no accents. A name that means two things, such as
the zones IST and BST, is not among them.
"""

from __future__ import annotations

_MONTHS = (
  "january february march april may june july august september october "
  "november december",
  # The usual short forms are the first three letters, except:
  "jan feb mar apr may jun jul aug sep oct nov dec",
  "januar februar marz april mai juni juli august september oktober november "
  "dezember",
  "jaenner februar maerz apr mai jun jul aug sep okt nov dez",
  "janvier fevrier mars avril mai juin juillet aout septembre octobre "
  "novembre decembre",
  "janv fevr mars avr mai juin juil aout sept oct nov dec",
  "enero febrero marzo abril mayo junio julio agosto septiembre octubre "
  "noviembre diciembre",
  "ene feb mar abr may jun jul ago sept oct nov dic",
  "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre "
  "novembre dicembre",
  "gen feb mar apr mag giu lug ago set ott nov dic",
  "janeiro fevereiro marco abril maio junho julho agosto setembro outubro "
  "novembro dezembro",
  "jan fev mar abr mai jun jul ago set out nov dez",
  "januari februari maart april mei juni juli augustus september oktober "
  "november december",
  "jan feb mrt apr mei jun jul aug sep okt nov dec",
)
# Short forms that are also months (mar., of Tuesday) are left out.
_DAYS = (
  "monday tuesday wednesday thursday friday saturday sunday",
  "mon tue wed thu fri sat sun",
  "montag dienstag mittwoch donnerstag freitag samstag sonntag sonnabend",
  "mo di mi do fr sa so",
  "lundi mardi mercredi jeudi vendredi samedi dimanche",
  "lun mer jeu ven sam dim",
  "lunes martes miercoles jueves viernes sabado domingo",
  "mie jue vie sab dom",
  "lunedi martedi mercoledi giovedi venerdi sabato domenica gio",
  "maandag dinsdag woensdag donderdag vrijdag zaterdag zondag",
)
# Minutes east of Greenwich: those of RFC 2822, and others that mean one thing.
_ZONES = {
  **{"z": 0, "utc": 0, "gmt": 0, "ut": 0},
  **{"est": -300, "edt": -240, "cst": -360, "cdt": -300},
  **{"mst": -420, "mdt": -360, "pst": -480, "pdt": -420},
  **{"akst": -540, "akdt": -480, "hst": -600, "brt": -180},
  **{"wet": 0, "west": 60, "cet": 60, "cest": 120, "eet": 120, "eest": 180},
  **{"mez": 60, "mesz": 120, "msk": 180, "sast": 120},
  **{"jst": 540, "kst": 540, "hkt": 480, "sgt": 480, "awst": 480},
  **{"aest": 600, "aedt": 660, "nzst": 720, "nzdt": 780},
}
_ORDINALS = ("st", "nd", "rd", "th", "er")
# Between the parts of a date, and between a date and a clock.
_FILLERS = ("de", "del", "le", "el", "il", "at", "um", "a")


def by_word() -> dict[str, tuple[str, int]]:
  """Class and value of each known word.

  Classes are the letters of `time_layouts`: month, weekday, zone, ordinal, half
  of the day (`P`), filler, `T` between date and clock, and `U` after a clock.
  """
  words = {"t": ("T", 0), "am": ("P", 0), "pm": ("P", 12), "uhr": ("U", 0)}
  for names in _DAYS:
    words |= dict.fromkeys(names.split(), ("W", 0))
  for names in _MONTHS:
    for number, name in enumerate(names.split(), start=1):
      words[name] = ("M", number)
  words |= {name: ("Z", minutes) for name, minutes in _ZONES.items()}
  words |= dict.fromkeys(_ORDINALS, ("O", 0))
  return words | dict.fromkeys(_FILLERS, ("F", 0))
