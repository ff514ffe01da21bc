// The Python module: linear algebra, norms, MoE, sampling helpers, and the machine.
#include "bindings.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "isa.h"
#include "linear.h"
#include "threads.h"

namespace tribody {

std::string describe(const char*, const nb::dlpack::dtype& dtype, size_t ndim,
                     const int64_t* shape) {
  std::string text = "shape (";
  for (size_t i = 0; i < ndim; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "), dtype code " + std::to_string(dtype.code) + " of " +
         std::to_string(dtype.bits) + " bits";
}

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

}  // namespace
}  // namespace tribody

NB_MODULE(_native, module) {
  using namespace tribody;
  nb::set_leak_warnings(false);
  nb::register_exception_translator([](const std::exception_ptr& error, void*) {
    try {
      std::rethrow_exception(error);
    } catch (const ShapeError& shape_error) {
      nb::object type = nb::module_::import_("tribody.core.errors").attr("ShapeError");
      PyErr_SetString(type.ptr(), shape_error.what());
    }
  });

  nb::class_<Matrix>(module, "Matrix");

  module.def("isa_levels", &isa_levels);
  module.def("current_isa", [] { return kIsaNames[static_cast<int>(current_isa())]; });
  module.def("set_isa", &choose_isa);
  module.def("set_num_threads", [](int count) {
    if (count < 1 || count > 1024) throw nb::value_error("num_threads must be in [1, 1024]");
    set_num_threads(count);
  });
  module.def("num_threads", &num_threads);
  bind_attention(module);
}
