// Detection and choice of the instruction set.
#include "isa.h"

#include <atomic>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tribody {
namespace {

#if defined(__x86_64__) || defined(_M_X64)
// Linux lets a process use tiles, whose 8 KB of state each thread then carries, once it has asked
// (ARCH_REQ_XCOMP_PERM for XFEATURE_XTILEDATA, Documentation/arch/x86/xstate.rst).  The answer
// holds for all threads of the process, those to come included.
bool tiles_allowed() {
#if defined(__linux__)
  static const bool allowed = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
  return allowed;
#else
  return false;
#endif
}
#endif

// Each level asks for every feature that its files are compiled with (CMakeLists.txt).
bool detect(Isa isa) {
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  switch (isa) {
    case Isa::portable: return true;
    case Isa::avx2: return avx2;
    case Isa::avxvnni: return avx2 && __builtin_cpu_supports("avxvnni");
    case Isa::amx:
      return detect(Isa::avx512vnni) && __builtin_cpu_supports("amx-tile") &&
             __builtin_cpu_supports("amx-int8") && tiles_allowed();
    case Isa::avx512vnni:
      return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512vnni");
    default: return false;
  }
#elif defined(__aarch64__) && defined(__linux__)
  // Armv8.2 as GCC understands it, and the dot products.
  constexpr unsigned long kNeonDot =
      HWCAP_ASIMD | HWCAP_CRC32 | HWCAP_ATOMICS | HWCAP_ASIMDRDM | HWCAP_ASIMDDP;
  const unsigned long has = getauxval(AT_HWCAP);
  switch (isa) {
    case Isa::portable: return true;
    case Isa::neon: return (has & HWCAP_ASIMD) != 0;
    case Isa::neondot: return (has & kNeonDot) == kNeonDot;
    default: return false;
  }
#elif defined(__aarch64__)
  return isa == Isa::portable || isa == Isa::neon;  // NEON is part of the architecture
#else
  return isa == Isa::portable;
#endif
}

int best() {
  for (int level = kNumIsas - 1; level > 0; --level) {
    if (detect(static_cast<Isa>(level))) return level;
  }
  return 0;
}

std::atomic<int>& chosen() {
  static std::atomic<int> level{best()};
  return level;
}

}  // namespace

bool isa_available(Isa isa) { return detect(isa); }
Isa current_isa() { return static_cast<Isa>(chosen().load(std::memory_order_relaxed)); }
void set_isa(Isa isa) { chosen().store(static_cast<int>(isa), std::memory_order_relaxed); }

}  // namespace tribody
