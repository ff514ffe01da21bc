// Memory of packed weights.
#include "matrix.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace tribody {

uint8_t* allocate_weights(int64_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  void* exact = nullptr;  // not rounded up, so that an overrun shows
  if (posix_memalign(&exact, 64, static_cast<size_t>(bytes > 0 ? bytes : 1)) != 0) return nullptr;
  return static_cast<uint8_t*>(exact);
#else
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
#endif
}

}  // namespace tribody
