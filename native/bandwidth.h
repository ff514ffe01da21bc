// How fast this machine reads memory.
#pragma once

namespace tribody {

// Bytes per second that all threads together read from a buffer far larger than their own caches,
// the best of the passes that fit into `seconds`.
double memory_bandwidth(double seconds);

}  // namespace tribody
