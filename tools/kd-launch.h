/* The parts of `kd launch`: the pipeline's text, its links, its picture, the run. */
#pragma once
#include "kd-report.h"
#include "kd-tool.h"

G_BEGIN_DECLS

/** KdWord: one word of a pipeline's text; @start and @end are bytes. */
typedef struct {
  gsize start, end;
  gchar *text; /* without quotes */
} KdWord;

/** KdTextElement: an element as it is written. @name: given or the one GStreamer will give ("kdce0"). */
typedef struct {
  gchar *factory, *name;
  guint word;
  GPtrArray *properties; /* word numbers (GUINT_TO_POINTER) */
} KdTextElement;

/** KdText: a pipeline's text in words, to show where in it something is wrong and which properties were written. */
typedef struct {
  gchar *text;
  GArray *words;       /* of KdWord */
  GPtrArray *elements; /* of KdTextElement */
} KdText;

KdText *kd_text_new (const gchar *text);
void kd_text_free (KdText *text);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (KdText, kd_text_free)
/** kd_text_join: (transfer full) words of a command line as one text that GStreamer splits the same way. */
gchar *kd_text_join (gchar **words, guint n);
const KdTextElement *kd_text_element (const KdText *text, const gchar *name);
/** kd_text_property: the word that sets @property of @element (dashes or underscores), or -1. */
gint kd_text_property (const KdText *text, const KdTextElement *element, const gchar *property);
/** kd_text_print: the line of the text with a caret under word @word. */
void kd_text_print (const KdText *text, guint word, FILE *file);

/** kd_launch_parse: the pipeline, or NULL after printing what is wrong, where, and what was meant. */
GstElement *kd_launch_parse (const KdText *text);

/** kd_links_collect: (transfer full) array of {from, to, layout} in the order of the flow. */
JsonArray *kd_links_collect (GstBin *pipeline);
/** kd_links_print: as a table; fields that the sender added are marked with +. */
void kd_links_print (JsonArray *links, FILE *file);
/** kd_elements_collect: (transfer full) array of {name, factory, properties that are not the default}. */
JsonArray *kd_elements_collect (GstBin *pipeline);
/** kd_links_adds: whether @field on a link from @element is on none of the links to it. */
gboolean kd_links_adds (JsonArray *links, const gchar *element, const gchar *field);
/** kd_bin_elements: (transfer full) all elements below, sources first; of GstElement references. */
GPtrArray *kd_bin_elements (GstBin *bin);

/** kd_graph_svg: (transfer full) boxes and links with layouts, as SVG without an outside program. */
gchar *kd_graph_svg (JsonArray *elements, JsonArray *links);

typedef struct {
  gboolean dry_run, resume, quiet, verbose;
  gint64 seed; /* -1: not given */
  gint threads;
  gchar *graph, *report;
  gchar *command;
} KdLaunchOptions;

/** kd_launch_says: whether this process is to print @text, which all processes of a run may have to say; which of them it is is printed then. */
gboolean kd_launch_says (const gchar *text);

/** kd_launch_run: run @pipeline to its end; returns an exit code. */
int kd_launch_run (GstElement *pipeline, const KdText *text, const KdLaunchOptions *options);

/** KdProgress: the line that says how far a run is. */
typedef struct _KdProgress KdProgress;
KdProgress *kd_progress_new (gboolean quiet);
void kd_progress_free (KdProgress *progress);
void kd_progress_message (KdProgress *progress, const gchar *element, const GstStructure *structure);
void kd_progress_show (KdProgress *progress);
/** kd_progress_clear: take the line away before something else is printed. */
void kd_progress_clear (KdProgress *progress);
/** kd_progress_summary: final metrics and the time, to standard output. */
void kd_progress_summary (KdProgress *progress);

G_END_DECLS
