// What the module says about the machine, and what it lets one choose: instruction set and threads.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "bandwidth.h"
#include "bindings.h"
#include "isa.h"
#include "threads.h"

namespace tribody {
namespace {

std::vector<std::string> isa_levels() {
  std::vector<std::string> names;
  for (int level = 0; level < kNumIsas; ++level) {
    if (isa_available(static_cast<Isa>(level))) names.emplace_back(kIsaNames[level]);
  }
  return names;
}

void choose_isa(const std::string& name) {
  for (int level = 0; level < kNumIsas; ++level) {
    if (name == kIsaNames[level] && isa_available(static_cast<Isa>(level))) {
      set_isa(static_cast<Isa>(level));
      return;
    }
  }
  throw nb::value_error(("this machine has no instruction set named " + name).c_str());
}

void choose_num_threads(int count) {
  if (count < 1 || count > 1024) throw nb::value_error("num_threads must be in [1, 1024]");
  nb::gil_scoped_release release;
  set_num_threads(count);
}

double measure_bandwidth(double seconds) {
  nb::gil_scoped_release release;
  return memory_bandwidth(seconds);
}

}  // namespace

void bind_machine(nb::module_& module) {
  module.def("isa_levels", &isa_levels, "Names of this machine's levels, slowest first.");
  module.def("current_isa", [] { return kIsaNames[static_cast<int>(current_isa())]; });
  module.def("set_isa", &choose_isa, nb::arg("name"));
  module.def("num_threads", &num_threads);
  module.def("set_num_threads", &choose_num_threads, nb::arg("count"));
  module.def("memory_bandwidth", &measure_bandwidth, nb::arg("seconds"),
             "Bytes per second that all threads read from a 160 MB buffer, best pass.");
}

}  // namespace tribody
