// The tunables' names, meanings and the values worth a try.
#include "tunables.h"

namespace tribody {

Tunables tunables;

const Tunable kTunables[] = {
    {"smallest_chunk_macs", &Tunables::smallest_chunk_macs, "both",
     "least multiply-adds that are handed to another thread",
     {4096, 16384, 65536, 262144, 1048576}, 5},
    {"spin_us", &Tunables::spin_us, "both",
     "microseconds that an idle worker spins before it sleeps", {0, 20, 50, 100, 200}, 5},
    {"chunks_per_thread", &Tunables::chunks_per_thread, "both",
     "pieces that a thread's share of a product is cut into", {1, 2, 4, 8, 16}, 5},
    {"rows_per_chunk", &Tunables::rows_per_chunk, "prefill",
     "rows of a prompt that meet a panel of weights together", {32, 64, 128, 256}, 4},
    {"unpack_rows", &Tunables::unpack_rows, "prefill",
     "rows from which on a panel is unpacked before use", {16, 32, 64, 128, 1 << 20}, 5},
    {"attention_pairs", &Tunables::attention_pairs, "both",
     "rows times heads that read a page of keys together (GQA)", {24, 48, 72, 96, 144}, 5},
    {"latent_pairs", &Tunables::latent_pairs, "both",
     "rows times heads that read a page of latents together (MLA, absorbed)", {16, 32, 64}, 3},
    {"rebuilt_pages", &Tunables::rebuilt_pages, "prefill",
     "pages of keys and values rebuilt at once (MLA, expanded)", {1, 2, 4, 8}, 4},
    {"rebuild_rows", &Tunables::rebuild_rows, "prefill",
     "rows that share one rebuilding of keys and values (MLA, expanded)",
     {128, 256, 512, 1024, 2048}, 5},
};
const size_t kNumTunables = sizeof kTunables / sizeof kTunables[0];

}  // namespace tribody
