/* A pipeline's picture as SVG: boxes from top to bottom, what flows beside each arrow. An element stands one layer below the
 * lowest of those it takes from; a branch opens a new lane. */
#include "kd-launch.h"
#include <string.h>

#define BOX_WIDTH 330
#define LANE_WIDTH 372
#define LINE 16
#define GAP 22
#define MARGIN 16
#define TEXT_COLUMNS 42

typedef struct {
  const gchar *name, *factory;
  GPtrArray *lines;  /* the properties, wrapped */
  GPtrArray *labels; /* the fields that come in, wrapped; added ones begin with '+' */
  guint layer, lane;
  gint y, height, label_height;
} KdBox;

typedef struct {
  GPtrArray *boxes;
  JsonArray *links;
  guint n_layers, n_lanes;
} KdGraphPicture;

static void
kd_box_free (gpointer data)
{
  KdBox *box = data;

  g_ptr_array_unref (box->lines);
  g_ptr_array_unref (box->labels);
  g_free (box);
}

static KdBox *
kd_picture_box (KdGraphPicture *picture, const gchar *name)
{
  for (guint i = 0; i < picture->boxes->len; i++) {
    KdBox *box = picture->boxes->pdata[i];

    if (g_str_equal (box->name, name))
      return box;
  }
  return NULL;
}

/* Words into lines of at most TEXT_COLUMNS; a longer word is cut with an ellipsis. */
static void
kd_wrap (GPtrArray *lines, const gchar *word)
{
  gchar *last = lines->len ? lines->pdata[lines->len - 1] : NULL;

  if (last && g_utf8_strlen (last, -1) + 1 + g_utf8_strlen (word, -1) <= TEXT_COLUMNS) {
    lines->pdata[lines->len - 1] = g_strconcat (last, " ", word, NULL);
    g_free (last);
  } else if (g_utf8_strlen (word, -1) > TEXT_COLUMNS) {
    g_autofree gchar *start = g_utf8_substring (word, 0, TEXT_COLUMNS - 1);

    g_ptr_array_add (lines, g_strconcat (start, "\xe2\x80\xa6", NULL));
  } else
    g_ptr_array_add (lines, g_strdup (word));
}

static void
kd_picture_add (JsonArray *array, guint i, JsonNode *node, gpointer user_data)
{
  KdGraphPicture *picture = user_data;
  JsonObject *object = json_node_get_object (node), *properties = json_object_get_object_member (object, "properties");
  g_autoptr (GList) names = json_object_get_members (properties);
  KdBox *box = g_new0 (KdBox, 1);

  box->name = json_object_get_string_member (object, "name");
  box->factory = json_object_get_string_member (object, "factory");
  box->lines = g_ptr_array_new_with_free_func (g_free);
  box->labels = g_ptr_array_new_with_free_func (g_free);
  for (GList *l = names; l; l = l->next) {
    g_autofree gchar *word = g_strdup_printf ("%s=%s", (gchar *) l->data, json_object_get_string_member (properties, l->data));

    kd_wrap (box->lines, word);
  }
  g_ptr_array_add (picture->boxes, box);
}

/* Elements come sources first, so one pass finds every layer; a loop in the graph would only draw an arrow upwards. */
static void
kd_picture_layers (KdGraphPicture *picture)
{
  g_autoptr (GHashTable) taken = g_hash_table_new (NULL, NULL);

  for (guint i = 0; i < picture->boxes->len; i++) {
    KdBox *box = picture->boxes->pdata[i];
    gint lane = -1;

    for (guint k = 0; k < json_array_get_length (picture->links); k++) {
      JsonObject *link = json_array_get_object_element (picture->links, k);
      KdBox *from = kd_picture_box (picture, json_object_get_string_member (link, "from"));

      if (!from || from == box || !g_str_equal (json_object_get_string_member (link, "to"), box->name))
        continue;
      box->layer = MAX (box->layer, from->layer + 1);
      lane = lane < 0 ? (gint) from->lane : MIN (lane, (gint) from->lane);
    }
    lane = MAX (lane, 0);
    while (g_hash_table_contains (taken, GUINT_TO_POINTER ((box->layer << 12 | (guint) lane) + 1)))
      lane++;
    box->lane = (guint) lane;
    g_hash_table_add (taken, GUINT_TO_POINTER ((box->layer << 12 | box->lane) + 1));
    picture->n_layers = MAX (picture->n_layers, box->layer + 1);
    picture->n_lanes = MAX (picture->n_lanes, box->lane + 1);
  }
}

static void
kd_picture_labels (KdGraphPicture *picture)
{
  for (guint k = 0; k < json_array_get_length (picture->links); k++) {
    JsonObject *link = json_array_get_object_element (picture->links, k);
    const gchar *layout = json_object_get_string_member (link, "layout"), *from = json_object_get_string_member (link, "from");
    KdBox *box = kd_picture_box (picture, json_object_get_string_member (link, "to"));
    g_auto (GStrv) fields = g_strsplit (*layout ? layout : "not negotiated", " ", -1);

    for (guint i = 0; box && fields[i]; i++) {
      gboolean added = kd_links_adds (picture->links, from, fields[i]);
      g_autofree gchar *word = g_strconcat (added ? "+" : "", fields[i], NULL);

      if (added) /* a line of its own: it is drawn in colour */
        g_ptr_array_add (box->labels, g_strdup (word));
      else if (box->labels->len && ((gchar *) box->labels->pdata[box->labels->len - 1])[0] == '+')
        g_ptr_array_add (box->labels, g_strdup (word));
      else
        kd_wrap (box->labels, word);
    }
  }
}

/* Heights of the layers, from top to bottom; returns the picture's height. */
static gint
kd_picture_place (KdGraphPicture *picture)
{
  gint y = MARGIN;

  for (guint layer = 0; layer < picture->n_layers; layer++) {
    gint labels = 0, height = 0;

    for (guint i = 0; i < picture->boxes->len; i++) {
      KdBox *box = picture->boxes->pdata[i];

      if (box->layer != layer)
        continue;
      box->height = LINE * ((gint) box->lines->len + 1) + 16;
      box->label_height = LINE * (gint) box->labels->len;
      labels = MAX (labels, box->label_height);
      height = MAX (height, box->height);
    }
    y += layer ? labels + GAP : 0;
    for (guint i = 0; i < picture->boxes->len; i++) {
      KdBox *box = picture->boxes->pdata[i];

      if (box->layer == layer)
        box->y = y;
    }
    y += height;
  }
  return y + MARGIN;
}

static void
kd_picture_text (GString *out, const gchar *classes, gint x, gint y, const gchar *text)
{
  g_string_append_printf (out, "<text class=\"%s\" x=\"%d\" y=\"%d\">", classes, x, y);
  kd_page_text (out, text);
  g_string_append (out, "</text>\n");
}

static void
kd_picture_draw_box (GString *out, const KdBox *box)
{
  gint x = MARGIN + (gint) box->lane * LANE_WIDTH;
  gboolean ours = g_str_has_prefix (box->factory, "kd");
  g_autofree gchar *title = g_str_has_prefix (box->name, box->factory) ? g_strdup (box->name) : g_strdup_printf ("%s (%s)", box->name, box->factory);

  g_string_append_printf (out, "<rect class=\"kg-box%s\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"7\"/>\n", ours ? " kg-ours" : "", x,
      box->y, BOX_WIDTH,
      box->height);
  kd_picture_text (out, "kg-name", x + 12, box->y + 20, title);
  for (guint i = 0; i < box->lines->len; i++)
    kd_picture_text (out, "kg-prop", x + 12, box->y + 20 + LINE * (gint) (i + 1), box->lines->pdata[i]);
  for (guint i = 0; i < box->labels->len; i++) {
    const gchar *label = box->labels->pdata[i];

    kd_picture_text (out, *label == '+' ? "kg-new" : "kg-field", x + 34, box->y - box->label_height - 4 + LINE * (gint) (i + 1) - 6, label);
  }
}

static void
kd_picture_draw_link (GString *out, const KdBox *from, const KdBox *to)
{
  gint x1 = MARGIN + (gint) from->lane * LANE_WIDTH + 20, y1 = from->y + from->height;
  gint x2 = MARGIN + (gint) to->lane * LANE_WIDTH + 20, y2 = to->y - 1;
  gint bend = y1 + 10;

  if (x1 == x2)
    g_string_append_printf (out, "<path class=\"kg-link\" d=\"M%d %d V%d\"/>", x1, y1, y2 - 6);
  else
    g_string_append_printf (out, "<path class=\"kg-link\" d=\"M%d %d V%d H%d V%d\"/>", x1, y1, bend, x2, y2 - 6);
  g_string_append_printf (out, "<path class=\"kg-head\" d=\"M%d %d l-5 -8 h10 z\"/>\n", x2, y2);
}

/* Colours stand in the file itself: it is looked at alone as well as inside a page (so no rule may touch the page's own text). */
#define KG_TEXT ".kg-name,.kg-prop,.kg-field,.kg-new"
static const gchar kd_picture_style[] =
    "<style>.kg-bg{fill:#fff}.kg-box{fill:#f3f4f6;stroke:#98a2b3}.kg-ours{fill:#eef3ff;stroke:#2458d3}.kg-link{fill:none;stroke:#667085;stroke-width:1.6}"
    ".kg-head{fill:#667085}" KG_TEXT "{font:12px ui-monospace,'DejaVu Sans Mono',monospace;fill:#475467}.kg-name{font-weight:700;font-size:14px;fill:#1b2330}"
    ".kg-new{fill:#0b7a4b;font-weight:700}"
    "@media (prefers-color-scheme:dark){.kg-bg{fill:#1a1f28}.kg-box{fill:#232a36;stroke:#667085}.kg-ours{fill:#1e2a47;stroke:#7aa2ff}.kg-link{stroke:#98a2b3}"
    ".kg-head{fill:#98a2b3}" KG_TEXT "{fill:#b6bfcc}.kg-name{fill:#e6e9ef}.kg-new{fill:#4cc38a}}</style>\n";

gchar *
kd_graph_svg (JsonArray *elements, JsonArray *links)
{
  KdGraphPicture picture = { .boxes = g_ptr_array_new_with_free_func (kd_box_free), .links = links };
  GString *out = g_string_new (NULL);
  gint width, height;

  json_array_foreach_element (elements, kd_picture_add, &picture);
  kd_picture_layers (&picture);
  kd_picture_labels (&picture);
  height = kd_picture_place (&picture);
  width = 2 * MARGIN + (gint) MAX (picture.n_lanes, 1) * LANE_WIDTH;
  g_string_append_printf (out,
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\">\n%s<rect class=\"kg-bg\" width=\"%d\" height=\"%d\"/>\n",
      width, height, width, height, kd_picture_style, width, height);
  for (guint k = 0; k < json_array_get_length (links); k++) {
    JsonObject *link = json_array_get_object_element (links, k);
    KdBox *from = kd_picture_box (&picture, json_object_get_string_member (link, "from"));
    KdBox *to = kd_picture_box (&picture, json_object_get_string_member (link, "to"));

    if (from && to)
      kd_picture_draw_link (out, from, to);
  }
  for (guint i = 0; i < picture.boxes->len; i++)
    kd_picture_draw_box (out, picture.boxes->pdata[i]);
  g_string_append (out, "</svg>\n");
  g_ptr_array_unref (picture.boxes);
  return g_string_free (out, FALSE);
}
