"""Names of columns are understood as people write them."""

import pytest

from calrec_jax.data.logs.columns import column_names


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("orderDate", "order_date"),
    ("Order Date", "order_date"),
    ("order-date", "order_date"),
    ("reviewerID", "reviewer_id"),
    ("SKUCode", "sku_code"),
    ("Straße", "strasse"),
    ("Descrição", "descricao"),
    ("user_id:token", "user_id"),
    ("items[].item_id", "item_id"),
    ("customer.id", "id"),
  ],
)
def test_words(name, words):
  assert column_names.as_words(name) == words


@pytest.mark.parametrize(
  ("role", "surer", "other"),
  [
    ("user", "customer_id", "session_id"),
    ("user", "user_id", "user_name"),
    ("item", "product_id", "id"),
    ("item", "parent_asin", "asin"),
    ("time", "timestamp", "updated_at"),
    ("time", "Created at", "Paid at"),
    ("title", "Lineitem name", "Billing Name"),
    ("title", "product_name", "description"),
    ("category", "product_type_name", "type"),
    ("brand", "Vendor", "price"),
  ],
)
def test_some_names_are_surer_than_others(role, surer, other):
  one, two = column_names.rank(role, surer), column_names.rank(role, other)
  assert one is not None
  assert two is None or one < two


@pytest.mark.parametrize(
  ("role", "name"),
  [
    ("user", "product_id"),
    ("item", "user_id"),
    ("title", "user_name"),
    ("title", "review_title"),
    ("time", "price"),
    ("order", "product_id"),
  ],
)
def test_names_of_something_else(role, name):
  assert column_names.rank(role, name) is None


@pytest.mark.parametrize("role", column_names.ROLES)
def test_known_names_are_words(role):
  for name in column_names.known(role):
    assert column_names.as_words(name) == name
    assert column_names.rank(role, name) is not None
