// What the module says about the machine, and what it lets one choose: instruction set and threads.
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "bandwidth.h"
#include "bindings.h"
#include "isa.h"
#include "threads.h"
#include "tunables.h"

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

using TunableRow = std::tuple<std::string, int64_t, std::vector<int64_t>, std::string, std::string>;

std::vector<TunableRow> tunable_rows() {
  const Tunables defaults;
  std::vector<TunableRow> rows;
  for (size_t i = 0; i < kNumTunables; ++i) {
    const Tunable& t = kTunables[i];
    rows.emplace_back(t.name, defaults.*t.member,
                      std::vector<int64_t>(t.values, t.values + t.num_values), t.phase, t.meaning);
  }
  return rows;
}

const Tunable& tunable_named(const std::string& name) {
  for (size_t i = 0; i < kNumTunables; ++i) {
    if (name == kTunables[i].name) return kTunables[i];
  }
  throw nb::value_error(("no tunable is named " + name).c_str());
}

void set_tunable(const std::string& name, int64_t value) {
  const Tunable& tunable = tunable_named(name);
  for (size_t i = 0; i < tunable.num_values; ++i) {
    if (value == tunable.values[i]) {
      __atomic_store_n(&(tunables.*tunable.member), value, __ATOMIC_RELAXED);
      return;
    }
  }
  throw nb::value_error((name + " cannot be " + std::to_string(value)).c_str());
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
  module.def("tunables", &tunable_rows,
             "(name, default, values, phase, meaning) of each number that kernels read.");
  module.def("tunable", [](const std::string& name) { return tunables.*tunable_named(name).member; },
             nb::arg("name"), "The value in force.");
  module.def("set_tunable", &set_tunable, nb::arg("name"), nb::arg("value"),
             "Put one of its values in force; not while a kernel runs.");
  module.def("memory_bandwidth", &measure_bandwidth, nb::arg("seconds"),
             "Bytes per second that all threads read from a 160 MB buffer, best pass.");
}

}  // namespace tribody
