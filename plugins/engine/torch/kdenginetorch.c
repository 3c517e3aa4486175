/**
 * SECTION:plugin-kdenginetorch
 * @short_description: the tensor engine on libtorch
 *
 * Operations and automatic differentiation of ATen, and TorchScript files as whole models. This file is the GObject; what speaks
 * to libtorch is C++ behind torch-shim.h.
 */
#include "torch-shim.h"

#include <dlfcn.h>

GST_DEBUG_CATEGORY_STATIC (kd_torch_debug);
#define GST_CAT_DEFAULT kd_torch_debug

typedef struct {
  KdEngine parent;
  gint n_threads; /* atomic; 0: libtorch's default */
} KdTorchEngine;
typedef KdEngineClass KdTorchEngineClass;

GType kd_torch_engine_get_type (void);
G_DEFINE_TYPE (KdTorchEngine, kd_torch_engine, KD_TYPE_ENGINE)

/* Which BLAS multiplies: the loaded libraries are asked, since Debian swaps libblas.so.3 by alternatives. */
static const gchar *
blas_name (void)
{
  static const struct {
    const gchar *symbol, *name;
  } known[] = { { "openblas_get_config", "OpenBLAS" }, { "bli_info_get_version_str", "BLIS" }, { "ATL_buildinfo", "ATLAS" },
    { "mkl_get_version", "MKL" } };
  const gchar *name = "reference BLAS";
  gpointer library;

  if (kd_torch_has_mkl ())
    return "MKL";
  library = dlopen ("libblas.so.3", RTLD_LAZY | RTLD_NOLOAD);
  if (!library)
    return "own BLAS";
  for (guint i = 0; i < G_N_ELEMENTS (known); i++)
    if (dlsym (library, known[i].symbol))
      name = known[i].name;
  dlclose (library);
  return name;
}

static KdGraph *
graph_new (KdEngine *engine, gboolean grad)
{
  return kd_torch_graph_new (grad, (guint) g_atomic_int_get (&((KdTorchEngine *) engine)->n_threads));
}

static void
graph_free (KdEngine *engine, KdGraph *graph)
{
  kd_torch_graph_free (graph);
}

static KdScript *
script_load (KdEngine *engine, const gchar *path, GError **error)
{
  return kd_torch_script_load (path, error);
}

static gboolean
script_bind (KdScript *script, gpointer params, GError **error)
{
  return kd_torch_script_bind (script, params, error);
}

/* Takes effect with the next graph: libtorch counts threads for each calling thread on its own. */
static void
set_threads (KdEngine *engine, guint n)
{
  g_atomic_int_set (&((KdTorchEngine *) engine)->n_threads, (gint) n);
}

static gchar *
describe (KdEngine *engine)
{
  guint n = (guint) g_atomic_int_get (&((KdTorchEngine *) engine)->n_threads);

  n = n ? n : kd_torch_n_threads ();
  return g_strdup_printf ("libtorch %s, %s, %u thread%s", kd_torch_version (), blas_name (), n, n == 1 ? "" : "s");
}

static void
kd_torch_engine_class_init (KdTorchEngineClass *klass)
{
  klass->name = "torch";
  klass->graph_new = graph_new;
  klass->graph_free = graph_free;
  klass->wrap = kd_torch_wrap;
  klass->op = kd_torch_op;
  klass->shape = kd_torch_shape;
  klass->tensor = kd_torch_tensor;
  klass->backward = kd_torch_backward;
  klass->grad = kd_torch_grad;
  klass->script_load = script_load;
  klass->script_free = kd_torch_script_free;
  klass->script_bind = script_bind;
  klass->script_forward = kd_torch_script_forward;
  klass->set_threads = set_threads;
  klass->describe = describe;
}

/* There is one engine a process, so this warns once. */
static void
kd_torch_engine_init (KdTorchEngine *engine)
{
  if (g_str_equal (blas_name (), "reference BLAS"))
    GST_WARNING ("libtorch multiplies with the reference BLAS, which is many times slower; install libopenblas0-pthread");
}

KD_PLUGIN_DEFINE ("kdstream tensor engine on libtorch",
                  GST_DEBUG_CATEGORY_INIT (kd_torch_debug, "kdenginetorch", 0, "kdstream tensor engine on libtorch");
                  return kd_engine_register (plugin, "torch", kd_torch_engine_get_type ());)
