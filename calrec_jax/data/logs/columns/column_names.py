"""What the names of columns mean: users, items, times, in several languages.

Names are compared as words: `orderDate`, `Order Date` and `order-date` are one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

ROLES = (
  *("user", "item", "time", "kind", "rating", "quantity", "order", "position"),
  *("title", "brand", "category", "price"),
)
UNSURE = 100  # Ranks from here on are those of parts of names.

# The surest first.
_NAMES: Mapping[str, tuple[str, ...]] = {
  "user": (
    *("user_id", "userid", "user", "uid", "customer_id", "customerid"),
    *("customer", "client_id", "client", "visitor_id", "visitorid", "visitor"),
    *("user_pseudo_id", "buyer_id", "buyer", "member_id", "member"),
    *("reviewer_id", "reviewer", "person_id", "household_key", "household_id"),
    *("account_id", "shopper_id", "cust_id", "kunde", "kunden_id", "kundennr"),
    *("kundennummer", "benutzer", "besucher", "cliente", "id_cliente"),
    *("usuario", "id_usuario", "client_no", "id_client", "acheteur"),
    *("utilisateur", "utente", "klant", "klant_id", "klantnummer", "gebruiker"),
    *("profile_id", "subscriber_id", "username", "user_name", "customer_email"),
    *("email", "e_mail", "billing_email", "email_billing", "account"),
    *("device_id", "playlist_id", "pid", "session_id", "sessionid", "session"),
    *("user_session", "visit_id", "anonymous_id", "kunnr", "kundnr"),
  ),
  "item": (
    *("item_id", "itemid", "item", "iid", "product_id", "productid"),
    *("parent_asin", "asin", "sku", "article_id", "articleid", "product"),
    *("article", "artikel", "artikelnr", "artikelnummer", "artikel_id"),
    *("stock_code", "stockcode", "goods_id", "lineitem_sku", "product_sku"),
    *("movie_id", "movieid", "movie", "book_id", "bookid", "isbn", "track_id"),
    *("traid", "track_uri", "song_id", "artist_id", "artistid", "artid"),
    *("album_id", "business_id", "gmap_id", "app_id", "game_id", "location_id"),
    *("venue_id", "poi_id", "place_id", "recipe_id", "news_id", "video_id"),
    *("content_id", "anime_id", "beer_id", "post_id", "show_id", "course_id"),
    *("listing_id", "offer_id", "hotel_id", "restaurant_id", "variant_id"),
    *("upc", "ean", "gtin", "material", "article_number", "product_code"),
    *("product_number", "produkt", "produkt_id", "produktnummer", "produit"),
    *("id_produit", "ref_produit", "reference", "producto", "id_producto"),
    *("articulo", "articolo", "prodotto", "produto", "id_produto", "artigo"),
    *("artikelcode", "item_code", "item_number", "item_sk", "aid", "matnr"),
    "id",
  ),
  "time": (
    *("timestamp", "event_timestamp", "event_time", "datetime", "date_time"),
    *("time", "unix_time", "unix_review_time", "created_at", "order_date"),
    *(
      "purchase_date",
      "invoice_date",
      "transaction_date",
      "bought_at",
      "t_dat",
    ),
    *("ordered_at", "purchased_at", "order_time", "paid_at", "sold_at"),
    *("date_created", "time_stamp", "ts", "date", "datum", "event_date"),
    *("date_added", "review_time", "bestelldatum", "kaufdatum", "zeitstempel"),
    *("zeit", "zeitpunkt", "uhrzeit", "bestellt_am", "fecha", "fecha_compra"),
    *("fecha_pedido", "date_commande", "date_achat", "heure", "data"),
    *("data_ordine", "data_compra", "data_pedido", "data_hora", "ora", "hora"),
    *("besteldatum", "aankoopdatum", "tijd", "tijdstip", "created", "day"),
    *("check_in_time", "checkin_time", "visited_at", "watched_at", "played_at"),
    *("timestamp_ms", "timestamp_s", "utc_time", "local_time", "server_time"),
    *("audat", "erdat", "transaction_dt", "month", "week"),
  ),
  "title": (
    *("title", "product_name", "productname", "item_name", "product_title"),
    *("prod_name", "movie_title", "book_title", "lineitem_name", "track_name"),
    *("traname", "song_name", "app_name", "game_name", "name", "artist_name"),
    *("artname", "display_name", "headline", "bezeichnung", "titel"),
    *("artikelbezeichnung", "artikelname", "produktname", "nom_produit"),
    *("designation", "libelle", "nom", "titre", "nombre_producto"),
    *("nombre", "titulo", "nome_produto", "nome_prodotto", "nome", "titolo"),
    *("productnaam", "naam", "omschrijving", "description", "desc"),
    *("product_description", "beschreibung", "descripcion", "descricao"),
    *("descrizione", "label", "track", "song", "movie", "book", "product"),
    *("artist", "venue_category_name", "venue_name", "detail_desc", "arktx"),
    *("maktx", "item_desc", "sub_commodity_desc", "commodity_desc"),
    *("product_type", "product_subcategory"),
  ),
  "category": (
    *("category", "categories", "main_category", "category_code", "genre"),
    *("genres", "category_name", "product_category", "product_type_name"),
    *("product_type", "type_name", "product_group_name", "class", "department"),
    *("department_name", "aisle", "kategorie", "warengruppe", "categorie"),
    *("categoria", "genero", "genere", "rubrique", "family", "shelf", "tags"),
    *("popular_shelves", "subcategory", "venue_category", "item_category"),
    *("collection", "section_name", "type"),
  ),
  "brand": (
    *("brand", "brand_name", "manufacturer", "maker", "vendor", "publisher"),
    *("item_brand", "developer", "store", "marke", "hersteller", "marque"),
    *("marca", "merk", "fabricant", "fabricante", "produttore", "artist"),
    *("artist_name", "artname", "author_name", "book_author", "author"),
    *("authors", "supplier", "label"),
  ),
  "price": (
    *("price", "unit_price", "unitprice", "sale_price", "list_price", "preis"),
    *("einzelpreis", "lineitem_price", "item_price", "product_price", "prix"),
    *("prix_unitaire", "precio", "precio_unitario", "preco", "prezzo", "prijs"),
    *("sales_price", "item_cost", "cost"),
  ),
  "kind": (
    *("event", "event_type", "eventtype", "event_name", "action", "behavior"),
    *("action_type", "behavior_type", "behaviour", "behavior_id", "activity"),
    *("interaction", "interaction_type", "type", "kind", "status"),
    *(
      "order_status",
      "financial_status",
      "feedback",
      "feedback_type",
      "aktion",
    ),
    *("ereignis", "estado", "statut", "evento", "azione", "stato", "actie"),
  ),
  "rating": (
    *("rating", "ratings", "stars", "score", "overall", "grade", "vote"),
    *("book_rating", "bewertung", "note", "puntuacion", "nota", "voto"),
    *("review_score", "user_rating", "star_rating"),
  ),
  "quantity": (
    *("quantity", "qty", "menge", "anzahl", "units", "amount", "count"),
    *("lineitem_quantity", "quantite", "cantidad", "sales_qty", "stueck"),
    *("stuck", "qte", "quantidade", "quantita", "aantal", "item_quantity"),
    *("qty_ordered", "kwmeng"),
  ),
  "order": (
    *("order_id", "orderid", "order_number", "order_no", "order", "invoice"),
    *("invoice_no", "invoiceno", "invoice_id", "basket_id", "basketid"),
    *("transaction_id", "transactionid", "receipt_id", "receipt", "bestellnr"),
    *("bestell_id", "bestellnummer", "commande", "id_commande", "pedido"),
    *("id_pedido", "ordine", "bon", "bonnummer", "bestelling", "cart_id"),
    *("increment_id", "vbeln", "basket", "receipt_no"),
  ),
  "position": (
    *("add_to_cart_order", "position", "pos", "line", "line_no", "line_number"),
    *("line_item", "sequence", "seq", "order_line", "order_number"),
    *("item_index", "timeframe", "rank", "positionsnummer"),
    *("posnr", "order_item_id", "step"),
  ),
}
# Nouns that mean an id together with one of `_TAILS`: `SupplierItemNo`.
_NOUNS: Mapping[str, tuple[str, ...]] = {
  "user": (
    *("user", "customer", "client", "visitor", "buyer", "member", "reviewer"),
    *("person", "household", "account", "shopper", "subscriber", "kunde"),
    *("kunden", "cliente", "usuario", "klant", "profile", "guest", "player"),
    *("listener", "reader", "viewer", "patron", "student", "device"),
    *("playlist", "session"),
  ),
  "item": (
    *("item", "product", "article", "artikel", "goods", "sku", "stock"),
    *("movie", "film", "book", "track", "song", "artist", "album", "business"),
    *("app", "game", "location", "venue", "poi", "place", "recipe", "news"),
    *("video", "content", "anime", "beer", "wine", "joke", "post", "podcast"),
    *("show", "episode", "course", "listing", "offer", "hotel", "restaurant"),
    *("variant", "produkt", "produit", "producto", "prodotto", "produto"),
    *("articulo", "articolo", "artigo", "job", "ad", "paper", "repo", "deal"),
  ),
  "order": ("order", "invoice", "basket", "transaction", "receipt", "cart"),
}
_TAILS = (
  *("id", "ids", "no", "nr", "num", "number", "nummer", "code", "key", "sku"),
  *("ref", "uri", "numero", "codigo", "codice", "hash", "uuid", "guid"),
)
# Last words that mean a role whatever is before them.
_LAST: Mapping[str, tuple[str, ...]] = {
  "time": (
    *("timestamp", "datetime", "time", "at", "date", "datum", "ts", "fecha"),
    "zeit",
  ),
  "title": (
    *("title", "name", "titel", "bezeichnung", "description", "label", "desc"),
    "descr",
  ),
  "category": ("category", "genre", "genres", "kategorie", "categoria"),
  "brand": ("brand", "marke", "marca", "manufacturer", "hersteller"),
  "price": ("price", "preis", "precio", "prix", "prezzo", "preco", "prijs"),
  "kind": ("event", "action", "behavior", "behaviour", "status"),
  "rating": ("rating", "stars", "score"),
  "quantity": ("quantity", "qty", "menge", "anzahl"),
}
# Words of names of groups of items, wherever they stand.
_GROUPS = {"category", "genre", "genres", "kategorie", "categorie", "categoria"}
# Words of times that are not those of the purchase.
_OTHER_TIMES = {
  *("updated", "update", "modified", "release", "released", "birth", "shipped"),
  *("ship", "delivery", "delivered", "cancelled", "canceled", "expires"),
  *("expire", "due", "end", "published", "publication", "video", "read"),
  *("birthday", "registered", "registration", "signup", "since", "days"),
}
# Words of names and titles that are not those of an item.
_OTHER_NAMES = {
  *("user", "customer", "billing", "shipping", "first", "last", "review"),
  *("reviewer", "file", "company", "country", "city", "state", "street"),
  *("original", "event", "payment", "discount", "store", "category", "brand"),
  *("collection", "aisle", "department", "section", "group", "index", "type"),
}


def known(role: str) -> tuple[str, ...]:
  """The whole names that mean a role, the surest first."""
  return _NAMES[role]


def rank(role: str, name: str) -> int | None:
  """How surely a name means a role, from 0; None if it does not."""
  words = as_words(name)
  names = _NAMES[role]
  if words in names:
    return names.index(words)
  parts = words.split("_")
  if role == "time" and _OTHER_TIMES & {*parts}:
    last = _last(role, parts)
    return None if last is None else UNSURE + 50 + last
  if role == "title" and _OTHER_NAMES & {*parts}:
    return None
  for index, noun in enumerate(_NOUNS.get(role, ())):
    if noun in parts and parts[-1] in _TAILS:
      return UNSURE + index
    if parts[-1].startswith(noun) and parts[-1][len(noun) :] in _TAILS:
      return UNSURE + index
    if words.replace("_", "") in (f"id{noun}", f"{noun}name") and (
      role == "user" or words.startswith("id")
    ):
      return UNSURE + index
    if role == "user" and parts[-1] in (f"{noun}name", f"{noun}s"):
      return UNSURE + 50 + index
  if role == "category" and _GROUPS & {*parts} and parts[-1] not in _TAILS:
    return UNSURE + 20
  last = _last(role, parts)
  return None if last is None else UNSURE + last


def means_anything(name: str) -> bool:
  """Whether a name means a role, or an id of something."""
  last = as_words(name).rpartition("_")[2]
  return last in _TAILS or any(rank(role, name) is not None for role in ROLES)


def _last(role: str, parts: list[str]) -> int | None:
  known = _LAST.get(role, ())
  return known.index(parts[-1]) if parts[-1] in known else None


def as_words(name: str) -> str:
  """`orderDate`, `Order Date` and `order-date` as `order_date`."""
  name = name.removesuffix("[]").rpartition(".")[2].partition(":")[0]
  name = name.replace("ß", "ss")
  name = unicodedata.normalize("NFKD", name)
  name = "".join(c for c in name if not unicodedata.combining(c))
  name = re.sub("([a-z0-9])([A-Z])", r"\1_\2", name)
  name = re.sub("([A-Z])([A-Z][a-z])", r"\1_\2", name)
  return re.sub(r"[\W_]+", "_", name.lower()).strip("_")
