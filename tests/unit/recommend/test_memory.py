"""What is retained, what is forgotten, and that nothing is computed twice."""

from calrec_jax.recommend.memory import RecentlyUsed


def test_values_are_computed_once_and_the_oldest_forgotten():
  calls = []

  def square(keys):
    calls.append(list(keys))
    return [key * key for key in keys]

  memory = RecentlyUsed(2)
  assert memory.look_up([3, 2, 3], square) == [9, 4, 9]
  assert memory.look_up([3, 5], square) == [9, 25]  # Forgets 2.
  assert memory.look_up([5, 3, 2], square) == [25, 9, 4]
  assert calls == [[3, 2], [5], [2]]
  assert len(memory) == 2


def test_one_request_may_hold_more_than_is_retained():
  memory = RecentlyUsed(1)
  assert memory.look_up([1, 2, 3, 1], lambda keys: keys) == [1, 2, 3, 1]
  assert len(memory) == 1
