// Answers against what the case expects, and as one number for other machines.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "case_file.h"

namespace tribody {

using Bytes = std::vector<std::byte>;

// What argument `name` holds against what `from` expects.  Sets `share` to the largest error as a
// share of what is allowed (0 where it must be equal and is).  Returns what is wrong, or nothing.
std::string compare(const Case& from, const std::string& name, const Bytes& actual, double& share);

// FNV-1a of all answers, every NaN counted as one: x86 and Arm make NaN with different signs.
uint64_t fingerprint(const Case& from, const std::map<std::string, Bytes>& answers);

}  // namespace tribody
