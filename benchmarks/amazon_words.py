"""Synthetic texts of a shop: titles, brands, categories, prices, reviews.

Lengths are as in Amazon's files: a title has about a dozen words, a review
about fifty with a long tail. An item's texts depend only on its number and the
seed.
"""

from __future__ import annotations

import dataclasses
import functools
import json

import numpy as np
import pyarrow as pa


def _words(text: str) -> list[str]:
  return text.split(",")


_NOUNS = _words(
  "adapter,backpack,basket,bearing,blanket,board,book,bottle,bowl,box,bracket,"
  "brush,bulb,cable,camera,candle,card,case,chair,charger,clamp,cleaner,clip,"
  "coffee,controller,cover,cup,curtain,cushion,cutter,desk,dish,dispenser,"
  "drill,drum,fan,faucet,figure,filter,flashlight,frame,game,gauge,gloves,"
  "guitar,hammer,headset,heater,holder,hook,hose,jacket,jar,keyboard,kettle,"
  "kit,knife,lamp,leash,lens,lock,lotion,marker,mask,mat,mirror,mixer,monitor,"
  "mount,mouse,mug,notebook,organizer,paint,pan,paper,pen,pillow,pipe,pitcher,"
  "plate,pliers,pouch,pump,puzzle,rack,razor,remote,ring,rope,rug,sandals,saw,"
  "scale,scissors,screen,screw,sensor,shampoo,shelf,shirt,shoes,socket,socks,"
  "speaker,sponge,stand,sticker,strap,string,switch,table,tape,tea,tent,"
  "thermometer,timer,tool,toothbrush,towel,toy,tray,tube,valve,vase,wallet,"
  "watch,wheel,wire,wrench"
)
_ADJECTIVES = _words(
  "adjustable,aluminum,anti-slip,automatic,bamboo,black,blue,bright,brushed,"
  "classic,clear,compact,cordless,cotton,deluxe,digital,double,durable,extra,"
  "flexible,foldable,genuine,gray,green,handmade,heavy-duty,high-speed,indoor,"
  "large,leather,lightweight,long,magnetic,medium,metal,mini,modern,natural,"
  "non-stick,original,outdoor,pink,plastic,portable,premium,professional,"
  "purple,rechargeable,red,replacement,reusable,rubber,silicone,silver,slim,"
  "small,soft,solar,stainless,steel,thick,travel,ultra,universal,vintage,"
  "waterproof,white,wide,wireless,wooden,yellow"
)
_LITTLE = _words(
  "the,a,and,it,is,was,i,this,for,my,to,of,in,that,very,not,with,have,on,but,"
  "so,great,good,as,they,are,you,works,well,would,love,just,one,product,like,"
  "use,bought,these,easy,quality,price,than,fits,nice,really,all,had,when,get,"
  "time,perfect,little,much,better,after,recommend,from,two,again,no"
)
_ROOTS = ("Kitchen", "Office", "Garden", "Music", "Sports", "Tools", "Games")
_NAMES = ("Kim", "Alex", "Pat", "Robin", "Amazon Customer", "J. Doe", "Sam")
_WEB_PAGE = (
  ".a-box-inner{background-color:#fff}#alohaBuyBoxWidget .selected{"
  "background-color:#fffbf3}"
)
_POOL = 20_000


@dataclasses.dataclass(frozen=True, eq=False)
class Pools:
  """Texts to sample from, escaped for JSON strings."""

  names: pa.Array
  reviews: pa.Array
  summaries: pa.Array
  features: pa.Array
  images: pa.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Descriptions:
  """Texts of items: JSON string contents, and categories as JSON lists."""

  titles: pa.Array
  brands: pa.Array
  categories: pa.Array
  main_categories: pa.Array


@functools.lru_cache(maxsize=2)
def pools(seed: int) -> Pools:
  """The pools of a seed, shorter texts first."""
  random = np.random.default_rng([seed, 3])
  words = np.array([*_LITTLE * 3, *_ADJECTIVES, *_NOUNS])

  def texts(num: int, mean: float, spread: float) -> list[str]:
    lengths = random.lognormal(np.log(mean), spread, num)
    lengths = np.sort(np.clip(lengths, 1, 900).astype(int))
    sampled = words[random.integers(0, len(words), lengths.sum())]
    cuts = np.cumsum(lengths)[:-1]
    return [" ".join(part) for part in np.split(sampled, cuts)]

  def quoted(values: list[str]) -> pa.Array:
    return pa.array([json.dumps(value)[1:-1] for value in values])

  reviews = [
    f'{text}.\n\nThat\'s "all" &amp; nothing more'
    if row % 25 == 0
    else f"{text} \u2014 caf\u00e9."
    if row % 40 == 0
    else f"{text}."
    for row, text in enumerate(texts(_POOL, 45, 1.1))
  ]
  return Pools(
    names=quoted([f"{name} {n}" for n in range(500) for name in _NAMES]),
    reviews=quoted(reviews),
    summaries=quoted(["Five Stars", *texts(2000, 4, 0.5)]),
    features=quoted(texts(_POOL, 12, 0.6)),
    images=quoted(
      [
        f"https://images-na.ssl-images-amazon.com/images/I/{n:x}._SS40_.jpg"
        for n in random.integers(10**11, 10**12, 2000)
      ]
    ),
  )


def describe(rows: np.ndarray, seed: int) -> Descriptions:
  """The texts of the items with some numbers.

  Args:
    rows: int[n], numbers in ascending order, at most a few thousand apart.
    seed: Seed of the data.
  """
  start, stop = int(rows[0]), int(rows[-1]) + 1
  random = np.random.default_rng([seed, 4, start])
  adjectives, nouns = np.array(_ADJECTIVES), np.array(_NOUNS)
  num = stop - start
  lengths = np.clip(random.lognormal(2.2, 0.45, num), 2, 60).astype(int)
  sampled = adjectives[random.integers(0, len(adjectives), lengths.sum())]
  kinds = random.integers(0, len(nouns), num)
  makers = (random.pareto(1.1, num) * 40).astype(int) % 40_000
  parts = np.split(sampled, np.cumsum(lengths)[:-1])
  titles, brands, categories, mains = [], [], [], []
  numbers = random.integers(2, 9_999, num).tolist()
  odd = random.random(num).tolist()
  for at, (words, kind, maker) in enumerate(
    zip(parts, kinds.tolist(), makers.tolist(), strict=True)
  ):
    root = _ROOTS[kind % len(_ROOTS)]
    brand = _brand(maker)
    title = f"{brand} {' '.join(words)} {_NOUNS[kind]}, {numbers[at]}-Pack"
    if odd[at] < 0.06:
      title += " &amp; more, 5&quot; x 7&quot;"
    titles.append(title.title() if odd[at] > 0.4 else title)
    brands.append("" if odd[at] > 0.9 else brand)
    mains.append(f"{root} &amp; More" if kind % 3 == 0 else root)
    categories.append(
      json.dumps(
        [root, f"{root} &amp; {_ADJECTIVES[kind % 70]}", _NOUNS[kind].title()]
      )
    )
  chosen = pa.array(rows - start)
  return Descriptions(
    *(pa.array(c).take(chosen) for c in (titles, brands, categories, mains))
  )


def prices(random: np.random.Generator, num: int) -> pa.Array:
  """Prices as in the metadata: amounts, ranges, HTML fragments, nothing."""
  cents = np.exp(random.normal(2.9, 0.9, num)).round(2)
  kinds = random.random(num)
  return pa.array(
    [
      ""
      if kind < 0.35
      else f"${low:,.2f} - ${3 * low:,.2f}"
      if kind < 0.42
      else _WEB_PAGE
      if kind < 0.425
      else f"${low:,.2f}"
      for kind, low in zip(kinds.tolist(), cents.tolist(), strict=True)
    ]
  )


def _brand(maker: int) -> str:
  """A unique name made of syllables for each number."""
  syllables = ("ba", "co", "de", "fi", "ga", "lu", "mo", "ne", "ri", "so")
  name = "".join(syllables[int(digit)] for digit in str(maker)).capitalize()
  return f"{name} Inc." if maker % 11 == 0 else name
