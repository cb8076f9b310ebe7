"""What is said of a fusion's members, from the numbers of their results."""

import pytest

from calrec_jax.evaluate import (
  Bootstrap,
  Job,
  Protocol,
  Shard,
  ShardedEvaluation,
  evaluate,
  format_table,
  members,
  read_results,
  write_results,
)
from tests.fixtures import evaluation_toys as toys

ITEMS = toys.catalogue()
PROTOCOL = Protocol(bootstrap=Bootstrap(resamples=100))


def results(*recommenders, users=None):
  return evaluate(
    recommenders,
    users or toys.histories(),
    ITEMS,
    protocol=PROTOCOL,
    progress=False,
  )


def said(*recommenders, **changes):
  fusion = toys.joining(ITEMS, **changes)
  return members.sentences(results(fusion, *recommenders), "fused")


def test_the_weights_and_the_most_useful_member_are_named():
  weights, brought, text = said()
  assert weights == (
    "fused joins popularity 1.5, dense 1 (weights chosen by 2,048 validation "
    "users) · left out, since no weight helped beyond chance: own <i>."
  )
  assert brought == (
    "On these users NDCG@10 is .0771. Without popularity (what is bought most) "
    "it falls most, to .0690. The best member alone, popularity, reaches "
    ".0600; the fusion minus it is +.0171 [+.0100, +.0200]: better."
  )
  assert text == (
    "The text model (dense) brings +.0012 [-.0001, +.0025]: undecided."
  )


def test_a_text_model_that_was_left_out_is_named_plainly():
  *_, text = said(dense=0.0)
  assert text.startswith("The text model (dense) was left out. ")
  assert "fused lists of this domain do not use the text model" in text


def test_members_that_say_the_same_are_not_missed():
  nothing = toys.interval(0.0, 0.0, 0.0)
  own = [
    {
      "name": name,
      "weight": 1.0,
      "alone": toys.interval(0.06, 0.05, 0.07),
      "ahead": nothing,
      "brings": nothing,
    }
    for name in "ab"
  ]
  _, brought = said(members=own)
  assert brought == (
    "On these users NDCG@10 is .0771. It is as high without any one of the "
    "members. The best member alone, a, reaches .0600; the fusion minus it is "
    "+.0000 [+.0000, +.0000]: undecided."
  )


def test_weights_that_nobody_chose_are_only_named():
  own = [{"name": "near", "weight": 2.0}, {"name": "dense", "weight": 1.0}]
  fusion = toys.Joining("fused", lambda _: range(len(ITEMS)), own)
  found = results(fusion)
  assert members.sentences(found, "fused") == [
    "fused joins near 2, dense 1 (weights given)."
  ]
  assert "near 2, dense 1" in format_table(found)


def test_a_fusion_is_compared_with_members_that_were_evaluated():
  users = [toys.history(user, [user % 30], user % 30) for user in range(60)]
  # The targets are the users' last items, which are no candidates.
  worse = [toys.history(user, [20], 0) for user in range(60)]
  popularity = toys.popularity(ITEMS)
  *_, lost = members.sentences(
    results(toys.joining(ITEMS), popularity, users=worse), "fused"
  )
  assert lost.startswith(
    "On the 60 users evaluated here fused minus popularity (what is bought "
    "most), the best of its members that were evaluated, is -"
  )
  assert "worse in NDCG@10. popularity alone is the better choice" in lost
  *_, even = members.sentences(
    results(toys.joining(ITEMS), popularity, users=users), "fused"
  )
  assert "undecided in NDCG@10." in even
  assert "better choice" not in even


def test_the_table_holds_every_sentence_in_lines_of_a_terminal():
  found = results(toys.joining(ITEMS, dense=0.0), toys.popularity(ITEMS))
  printed = format_table(found)
  assert max(map(len, printed.splitlines())) <= 100
  words = " ".join(printed.split())
  for sentence in members.sentences(found, "fused"):
    assert sentence in words


def test_results_of_an_earlier_release_have_no_members(tmp_path):
  found = results(toys.joining(ITEMS))
  for key in ("weights", "members", "chosen_by"):
    del found.recommenders["fused"][key]
  write_results(tmp_path, found)
  again = read_results(tmp_path)
  assert members.fusions(again) == {}
  assert "joins" not in format_table(again)


def test_a_job_of_blocks_says_the_same(tmp_path):
  whole = results(toys.joining(ITEMS), toys.popularity(ITEMS))
  fusions = [toys.joining(ITEMS), toys.popularity(ITEMS)]
  job = ShardedEvaluation(
    tmp_path,
    fusions,
    toys.histories(),
    ITEMS,
    {fusion.name: {} for fusion in fusions},
    settings=Job(block_users=7),
    protocol=PROTOCOL,
  )
  job.work(Shard(), progress=False)
  write_results(tmp_path, job.results())
  again = read_results(tmp_path)
  entry, expected = (r.recommenders["fused"] for r in (again, whole))
  assert entry["members"] == expected["members"]
  assert entry["chosen_by"]["users"] == 2048
  assert members.sentences(again, "fused") == members.sentences(whole, "fused")


def test_details_may_not_replace_numbers():
  fusion = toys.joining(ITEMS, metrics={"ndcg@10": 1.0})
  with pytest.raises(ValueError, match=r"'fused'.*\['metrics'\]"):
    results(fusion)
