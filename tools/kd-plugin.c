/* kd plugin new: a project of its own that builds against the installed library: element, test, README. */
#include "kd-tool.h"
#include <errno.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <gst/gst.h>
#include <string.h>

static const struct {
  const gchar *kind, *tested, *does, *run;
} kd_kinds[] = {
  { "loss", "the gradient against central differences", "the Huber distance between student and teacher logits.",
      "kd launch 'kdh5src location=train.h5 ! kdteacher arch=\"mlp dims=64,32,10\" ! kdstudent arch=\"mlp dims=64,16,10\" ! @name@ delta=0.5 ! kdtrain'" },
  { "selector", "what is left when samples are dropped", "it keeps the samples of which the teacher is sure by a margin.",
      "kd launch 'kdh5src location=train.h5 ! kdteacher arch=\"mlp dims=64,32,10\" ! @name@ margin=0.1 mode=drop ! kdh5sink location=out.h5'" },
  { "augment", "the same draw in any order", "it multiplies each sample's input by a random gain.",
      "kd launch 'kdh5src location=train.h5 ! @name@ strength=0.1 ! kdh5sink location=out.h5'" },
  { "transform", "a limit", "it adds the entropy of the teacher's softened output.",
      "kd launch 'kdh5src location=train.h5 ! kdteacher arch=\"mlp dims=64,32,10\" ! @name@ temperature=2 ! kdh5sink location=out.h5'" },
  { "source", "the same rows in any order", "it makes labelled points around the corners of a regular polygon.",
      "kd launch '@name@ n-rows=100 ! kdh5sink location=out.h5'" },
};

typedef struct {
  const gchar *name;
  gchar *camel;
  guint kind;
} KdProject;

static gchar *
kd_replace (gchar *text, const gchar *from, const gchar *to)
{
  g_autofree gchar *old = text;
  g_auto (GStrv) parts = g_strsplit (old, from, -1);

  return g_strjoinv (to, parts);
}

static gchar *
kd_fill_template (const KdProject *project, const gchar *template, GError **error)
{
  g_autofree gchar *path = g_strconcat ("/org/kdstream/templates/", template, NULL);
  g_autoptr (GBytes) bytes = g_resources_lookup_data (path, G_RESOURCE_LOOKUP_FLAGS_NONE, error);
  gchar *text;

  if (!bytes)
    return NULL;
  text = g_strndup (g_bytes_get_data (bytes, NULL), g_bytes_get_size (bytes));
  text = kd_replace (text, "@run@", kd_kinds[project->kind].run);
  text = kd_replace (text, "@tested@", kd_kinds[project->kind].tested);
  text = kd_replace (text, "@does@", kd_kinds[project->kind].does);
  text = kd_replace (text, "@kind@", kd_kinds[project->kind].kind);
  text = kd_replace (text, "@version@", KD_VERSION);
  text = kd_replace (text, "@Name@", project->camel);
  return kd_replace (text, "@name@", project->name);
}

static gboolean
kd_write_file (const KdProject *project, const gchar *template, const gchar *file, GError **error)
{
  g_autofree gchar *path = g_build_filename (project->name, file, NULL);
  g_autofree gchar *text = kd_fill_template (project, template, error);

  if (!text || !g_file_set_contents (path, text, -1, error))
    return FALSE;
  g_print ("  %s\n", path);
  return TRUE;
}

static gboolean
kd_write_project (const KdProject *project, GError **error)
{
  const gchar *kind = kd_kinds[project->kind].kind;
  g_autofree gchar *source = g_strconcat (project->name, ".c", NULL), *test = g_strdup_printf ("tests/test-%s.c", project->name);
  g_autofree gchar *source_template = g_strconcat (kind, ".c.in", NULL), *test_template = g_strconcat (kind, "-test.c.in", NULL);
  g_autofree gchar *tests = g_build_filename (project->name, "tests", NULL);

  if (g_mkdir (project->name, 0777) < 0 || g_mkdir (tests, 0777) < 0) {
    g_set_error (error, G_FILE_ERROR, g_file_error_from_errno (errno), "cannot make the folder %s: %s", project->name, g_strerror (errno));
    return FALSE;
  }
  return kd_write_file (project, "meson.build.in", "meson.build", error) && kd_write_file (project, source_template, source, error) &&
      kd_write_file (project, "tests-meson.build.in", "tests/meson.build", error) && kd_write_file (project, test_template, test, error) &&
      kd_write_file (project, "README.md.in", "README.md", error);
}

/* The name becomes an element, a C identifier, a file and GStreamer's symbol. */
static gboolean
kd_name_is_good (const gchar *name)
{
  return g_ascii_islower (*name) && strspn (name, G_CSET_a_2_z G_CSET_DIGITS) == strlen (name) && strlen (name) <= 40;
}

static int
kd_plugin_new (const gchar *name, guint kind)
{
  g_autofree gchar *camel = g_strdup (name);
  KdProject project = { name, camel, kind };
  g_autoptr (GstElementFactory) taken = NULL;
  g_autoptr (GError) error = NULL;

  if (!kd_name_is_good (name))
    return kd_tool_usage ("a plugin's name has lower case letters and digits only, begins with a letter and has at most 40, not '%s'", name);
  if (g_file_test (name, G_FILE_TEST_EXISTS))
    return kd_tool_fail ("%s is there already; nothing was written", name);
  kd_tool_init ();
  taken = gst_element_factory_find (name);
  if (taken)
    return kd_tool_fail ("there is an element '%s' already; choose another name", name);
  camel[0] = g_ascii_toupper (camel[0]);
  g_print ("Made:\n");
  if (!kd_write_project (&project, &error))
    return kd_tool_fail ("%s", error->message);
  g_print ("\nBuild and test it:\n  cd %s\n  meson setup b\n  meson test -C b\n", name);
  return KD_EXIT_DONE;
}

int
kd_tool_plugin (int argc, char **argv)
{
  static gchar *kind;
  static const GOptionEntry entries[] = {
    { "kind", 'k', 0, G_OPTION_ARG_STRING, &kind, "loss (default), selector, augment, transform or source", "KIND" },
    { NULL }
  };
  const gchar *kinds[G_N_ELEMENTS (kd_kinds) + 1] = { NULL }, *near;
  guint i;

  if (!kd_tool_options (&argc, &argv, entries, "new NAME", "Start a plugin project of your own in a folder NAME: one element, its test, a README.",
          "The project builds with meson against the installed kdstream.\n\n"
          "Example:\n  kd plugin new hinge --kind loss\n  cd hinge && meson setup b && meson test -C b\n"))
    return KD_EXIT_USAGE;
  if (argc < 2 || !g_str_equal (argv[1], "new"))
    return kd_tool_usage (argc < 2 ? "what to do is missing: new" : "there is no '%s'; only new", argc < 2 ? "" : argv[1]);
  if (argc != 3)
    return kd_tool_usage (argc < 3 ? "no name was given" : "one name at a time");
  for (i = 0; i < G_N_ELEMENTS (kd_kinds); i++)
    kinds[i] = kd_kinds[i].kind;
  for (i = 0; i < G_N_ELEMENTS (kd_kinds) && !g_str_equal (kind ? kind : "loss", kinds[i]); i++)
    ;
  if (i < G_N_ELEMENTS (kd_kinds))
    return kd_plugin_new (argv[2], i);
  near = kd_tool_closest (kind, kinds);
  return kd_tool_usage ("there is no kind '%s'%s%s%s", kind, near ? "; did you mean '" : "; loss, selector, augment, transform or source", near ? near : "", near ? "'?" : "");
}
