// Which instruction sets this build holds, which this machine has, and which is in use.
//
// A kernel file is compiled once per instruction set into namespace tribody::<isa> (CMakeLists.txt).
// Its header declares the functions in all of them and callers choose at run time:
//
//     #define TRIBODY_NORM_KERNELS void rms_norm(const NormCall& call);
//     TRIBODY_IN_EACH_ISA(TRIBODY_NORM_KERNELS)
//     ...
//     TRIBODY_DISPATCH(rms_norm(call));
//
// Inside a kernel file, kernels of the same instruction set are called by their plain names.
// amx is avx512vnni with the products of many rows on tiles (linear_amx.h), the same files and
// functions: they ask current_isa().
// Kernel files include no C++ standard header that defines inline functions which could be emitted
// out of line: the linker would keep one copy for all, perhaps the one for the newest machine.
#pragma once

namespace tribody {

// From the slowest to the fastest of each architecture; names are those that Python sees.
// neon is Armv8.0 (Phytium FTC66x, Cortex-A72), neondot adds the dot products of Armv8.2 (Kunpeng
// 920, Graviton 2 and later).
enum class Isa : int { portable, avx2, avxvnni, avx512vnni, amx, neon, neondot };
inline constexpr int kNumIsas = 7;
inline constexpr const char* kIsaNames[kNumIsas] = {"portable",   "avx2", "avxvnni",
                                                    "avx512vnni", "amx",  "neon", "neondot"};

// Whether this build holds it and this machine has it.
bool isa_available(Isa isa);
Isa current_isa();
// Kernels started later use `isa`, which must be available.
void set_isa(Isa isa);

}  // namespace tribody

#if defined(__x86_64__) || defined(_M_X64)
#define TRIBODY_IN_EACH_ISA(DECLARATIONS)                 \
  namespace tribody::portable { DECLARATIONS }   \
  namespace tribody::avx2 { DECLARATIONS }       \
  namespace tribody::avxvnni { DECLARATIONS }    \
  namespace tribody::avx512vnni { DECLARATIONS }
#define TRIBODY_DISPATCH(CALL)                                                       \
  do {                                                                               \
    switch (::tribody::current_isa()) {                                              \
      case ::tribody::Isa::amx:                                                      \
      case ::tribody::Isa::avx512vnni: ::tribody::avx512vnni::CALL; break;           \
      case ::tribody::Isa::avxvnni: ::tribody::avxvnni::CALL; break;                 \
      case ::tribody::Isa::avx2: ::tribody::avx2::CALL; break;                       \
      default: ::tribody::portable::CALL; break;                                     \
    }                                                                                \
  } while (0)
#elif defined(__aarch64__)
#define TRIBODY_IN_EACH_ISA(DECLARATIONS)      \
  namespace tribody::portable { DECLARATIONS } \
  namespace tribody::neon { DECLARATIONS }     \
  namespace tribody::neondot { DECLARATIONS }
#define TRIBODY_DISPATCH(CALL)                                       \
  do {                                                               \
    switch (::tribody::current_isa()) {                              \
      case ::tribody::Isa::neondot: ::tribody::neondot::CALL; break; \
      case ::tribody::Isa::neon: ::tribody::neon::CALL; break;       \
      default: ::tribody::portable::CALL; break;                     \
    }                                                                \
  } while (0)
#else
#define TRIBODY_IN_EACH_ISA(DECLARATIONS) \
  namespace tribody::portable { DECLARATIONS }
#define TRIBODY_DISPATCH(CALL) ::tribody::portable::CALL
#endif
