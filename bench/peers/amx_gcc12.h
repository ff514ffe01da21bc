/* Included before every source of llama.cpp when .venv-bench is built (see Makefile).
 *
 * GCC before 14 tells its optimiser that _tile_loadconfig reads 8 of the 64 bytes of a tile
 * configuration; the stores of the other 56 are then dropped as dead, and llama.cpp dies of an
 * illegal instruction in its first matrix product on a machine with AMX.  The same instruction,
 * with all 64 bytes named.  On every other machine and compiler this header does nothing.
 */
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 14
#include <immintrin.h>
#define _tile_loadconfig(config) \
    __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(config)))
#endif
