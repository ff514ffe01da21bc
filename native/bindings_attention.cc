// Attention's bindings: rope, paged attention, MLA.  (Filled by its owner.)
#include "bindings.h"

namespace tribody {

void bind_attention(nb::module_& module) { (void)module; }

}  // namespace tribody
