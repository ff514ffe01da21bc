// One case on one level: against the reference, against the first level, and cut into pieces with
// other tunables.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "compare.h"
#include "isa.h"

namespace tribody {

// What the first level computed; the others must give the same bits.
struct FirstLevel {
  bool known = false;
  std::map<std::string, Bytes> packed, answers;
};

struct Verdict {
  std::vector<std::string> problems;  // empty = passed
  double share = 0;                   // the largest error, as a share of what is allowed
};

Verdict check(const Case& from, Isa level, FirstLevel& first);

}  // namespace tribody
