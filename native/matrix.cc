// Memory of packed weights.
#include "matrix.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace tribody {

uint8_t* allocate_weights(int64_t bytes) {
  constexpr int64_t kHugePage = 2 << 20;
  const int64_t alignment = bytes >= kHugePage ? kHugePage : 64;
  const int64_t rounded = (bytes + alignment) / alignment * alignment;
  void* memory = std::aligned_alloc(static_cast<size_t>(alignment), static_cast<size_t>(rounded));
#if defined(__linux__)
  if (memory != nullptr && alignment == kHugePage) {
    // Advice only: where the system has no huge pages, nothing is lost.
    (void)madvise(memory, static_cast<size_t>(rounded), MADV_HUGEPAGE);
  }
#endif
  return static_cast<uint8_t*>(memory);
}

}  // namespace tribody
