/* Makes `#include <kd/kd.h>` work in the build tree as it does after installation. */
#include "../../kd.h"
