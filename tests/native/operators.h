// The operators by name: from a case's arguments to a kernel's call.
#pragma once

#include "arguments.h"

namespace tribody {

struct Operator {
  const char* name;
  const char* rows;  // the argument whose rows are the step's: T; nullptr = not cut into pieces
  // Calls the kernel of the level in use for rows [first, end) alone.
  void (*run)(const Arguments& arguments, int64_t first, int64_t end);
};

// nullptr when there is none of that name.
const Operator* operator_named(const std::string& name);

}  // namespace tribody
