// The Python module: linear algebra, norms, MoE and sampling helpers.
#include "bindings.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <tuple>

#include "linear.h"
#include "moe.h"
#include "norm.h"

namespace tribody {

std::string describe(const char*, const nb::dlpack::dtype& dtype, size_t ndim,
                     const int64_t* shape) {
  std::string text = "shape (";
  for (size_t i = 0; i < ndim; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "), dtype code " + std::to_string(dtype.code) + " of " +
         std::to_string(dtype.bits) + " bits";
}

namespace {

void bind_rms_norm(const In& x, const In& weight, float eps, const Out& out) {
  const auto columns = static_cast<int64_t>(weight.shape(0));
  const auto from = rows_of(x, "x columns", columns);
  const auto to = rows_of(out, "out columns", columns);
  check_size("out rows", to.count, from.count);
  const Norm norm{vector_of(weight, "weight", columns), eps};
  nb::gil_scoped_release release;
  TRIBODY_DISPATCH(rms_norm({from.pointer, from.stride, from.count}, norm, columns, to.pointer,
                            to.stride));
}

// Shared by linear and norm_linear; norm and residual may be None.
void run_linear(const In& x, const In& norm, float eps, const Matrix& weights, const In& bias,
                const In& residual, const Out& out) {
  check_plain(weights, "weights");
  const MatrixView& view = weights.view();
  const auto from = rows_of(x, "x columns", view.columns);
  const auto to = rows_of(out, "out columns", view.rows);
  check_size("out rows", to.count, from.count);
  LinearCall call{{from.pointer, from.stride, from.count},
                  {vector_of(norm, "norm", view.columns), eps},
                  view,
                  {to.pointer, to.stride}};
  call.out.bias = vector_of(bias, "bias", view.rows);
  if (residual.is_valid()) {
    const auto add = rows_of(residual, "residual columns", view.rows);
    check_size("residual rows", add.count, from.count);
    call.out.residual = add.pointer;
    call.out.residual_stride = add.stride;
  }
  nb::gil_scoped_release release;
  TRIBODY_DISPATCH(linear(call));
}

void bind_linear(const In& x, const Matrix& weights, const In& bias, const In& residual,
                 const Out& out) {
  run_linear(x, In(), 0, weights, bias, residual, out);
}

void bind_norm_linear(const In& x, const In& norm, float eps, const Matrix& weights,
                      const In& bias, const Out& out) {
  run_linear(x, norm, eps, weights, bias, In(), out);
}

void check_mlp(const MatrixView& gate_up, const MatrixView& down, int64_t hidden) {
  check_size("gate_up columns", gate_up.columns, hidden);
  check_size("down rows", down.rows, hidden);
  check_size("gate_up rows", gate_up.rows, 2 * down.columns);
  check_size("down experts", down.experts, gate_up.experts);
}

void bind_norm_mlp(const Out& x, const In& norm, float eps, const Matrix& gate_up,
                   const Matrix& down) {
  check_plain(gate_up, "gate_up");
  check_plain(down, "down");
  const int64_t hidden = gate_up.view().columns;
  check_mlp(gate_up.view(), down.view(), hidden);
  const auto rows = rows_of(x, "x columns", hidden);
  const MlpCall call{rows.pointer,
                     rows.stride,
                     rows.count,
                     {vector_of(norm, "norm", hidden), eps},
                     gate_up.view(),
                     down.view()};
  nb::gil_scoped_release release;
  TRIBODY_DISPATCH(norm_mlp(call));
}

void bind_moe(const In& x, const In& experts, const In& weights, const Matrix& gate_up,
              const Matrix& down, const Matrix* shared_gate_up, const Matrix* shared_down,
              const Out& out) {
  const MatrixView& first = gate_up.view();
  const int64_t hidden = first.columns;
  check_mlp(first, down.view(), hidden);
  const auto from = rows_of(x, "x columns", hidden);
  const auto to = rows_of(out, "out columns", hidden);
  check_size("out rows", to.count, from.count);
  MoeCall call{};
  call.x = {from.pointer, from.stride, from.count};
  call.experts = checked<int32_t>(experts, "experts", 2);
  call.experts_stride = experts.stride(0);
  call.top_k = static_cast<int64_t>(experts.shape(1));
  check_size("experts rows", static_cast<int64_t>(experts.shape(0)), from.count);
  const auto weigh = rows_of(weights, "weights columns", call.top_k);
  check_size("weights rows", weigh.count, from.count);
  call.weights = weigh.pointer;
  call.weights_stride = weigh.stride;
  for (int64_t t = 0; t < from.count; ++t) {
    for (int64_t k = 0; k < call.top_k; ++k) {
      const int32_t id = call.experts[t * call.experts_stride + k];
      if (id < 0 || id >= first.experts) {
        throw ShapeError("experts: " + std::to_string(id) + " is not in [0, " +
                         std::to_string(first.experts) + ")");
      }
    }
  }
  call.gate_up = first;
  call.down = down.view();
  if ((shared_gate_up == nullptr) != (shared_down == nullptr)) {
    throw ShapeError("shared: both matrices or none");
  }
  if (shared_gate_up != nullptr) {
    check_plain(*shared_gate_up, "shared gate_up");
    check_mlp(shared_gate_up->view(), shared_down->view(), hidden);
    call.shared_gate_up = &shared_gate_up->view();
    call.shared_down = &shared_down->view();
  }
  call.out = to.pointer;
  call.out_stride = to.stride;
  nb::gil_scoped_release release;
  TRIBODY_DISPATCH(moe(call));
}

}  // namespace

RouteCall router_of(const RouteSpec& spec, int64_t num_experts) {
  RouteCall call{};
  call.num_experts = num_experts;
  std::tie(call.top_k, call.num_groups, call.top_groups, call.sigmoid, call.group_by_two,
           call.normalize, call.scale) = spec;
  if (call.num_groups < 1 || call.num_experts % call.num_groups != 0 || call.top_groups < 1 ||
      call.top_groups > call.num_groups || call.top_k < 1 || call.top_k > call.num_experts) {
    throw ShapeError("route: top_k, num_groups and top_groups do not fit " +
                     std::to_string(call.num_experts) + " experts");
  }
  return call;
}

namespace {

void bind_route(const In& logits, const In& bias, const RouteSpec& spec, const Out& experts,
                const Out& weights) {
  const float* data = checked<float>(logits, "logits", 2);
  RouteCall call = router_of(spec, static_cast<int64_t>(logits.shape(1)));
  const auto count = static_cast<int64_t>(logits.shape(0));
  call.logits = {data, logits.stride(0), count};
  call.bias = vector_of(bias, "bias", call.num_experts);
  call.experts = checked<int32_t>(experts, "experts", 2);
  call.experts_stride = experts.stride(0);
  check_size("experts rows", static_cast<int64_t>(experts.shape(0)), count);
  check_size("experts columns", static_cast<int64_t>(experts.shape(1)), call.top_k);
  const auto to = rows_of(weights, "weights columns", call.top_k);
  check_size("weights rows", to.count, count);
  call.weights = to.pointer;
  call.weights_stride = to.stride;
  nb::gil_scoped_release release;
  TRIBODY_DISPATCH(route(call));
}

void bind_argmax(const In& logits, const Out& out) {
  const float* data = checked<float>(logits, "logits", 2);
  const auto columns = static_cast<int64_t>(logits.shape(1));
  int32_t* to = checked<int32_t>(out, "out", 1);
  check_size("out", static_cast<int64_t>(out.shape(0)), static_cast<int64_t>(logits.shape(0)));
  if (columns == 0) throw ShapeError("logits: no columns");
  const Rows rows{data, logits.stride(0), static_cast<int64_t>(logits.shape(0))};
  nb::gil_scoped_release release;
  TRIBODY_DISPATCH(argmax(rows, columns, to));
}

void bind_top_logprobs(const In& logits, const Out& ids, const Out& logprobs,
                       const Out& log_sums) {
  TopCall call{};
  const float* data = checked<float>(logits, "logits", 2);
  const auto count = static_cast<int64_t>(logits.shape(0));
  call.logits = {data, logits.stride(0), count};
  call.columns = static_cast<int64_t>(logits.shape(1));
  call.ids = checked<int32_t>(ids, "ids", 2);
  call.k = static_cast<int64_t>(ids.shape(1));
  const auto to = rows_of(logprobs, "logprobs columns", call.k);
  call.logprobs = to.pointer;
  call.log_sums = checked<float>(log_sums, "log_sums", 1);
  check_size("ids rows", static_cast<int64_t>(ids.shape(0)), count);
  check_size("logprobs rows", to.count, count);
  check_size("log_sums", static_cast<int64_t>(log_sums.shape(0)), count);
  if (call.k < 1 || call.k > call.columns || to.stride != call.k || ids.stride(0) != call.k) {
    throw ShapeError("top_logprobs: k is " + std::to_string(call.k) + " of " +
                     std::to_string(call.columns) + " columns, into contiguous arrays");
  }
  nb::gil_scoped_release release;
  TRIBODY_DISPATCH(top_logprobs(call));
}

void bind_exponential(const In& x, const Out& out) {
  const float* data = checked<float>(x, "x", 1);
  float* to = checked<float>(out, "out", 1);
  const auto count = static_cast<int64_t>(x.shape(0));
  check_size("out", static_cast<int64_t>(out.shape(0)), count);
  TRIBODY_DISPATCH(exponential(data, count, to));
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

  bind_matrix(module);
  module.def("rms_norm", &bind_rms_norm, nb::arg("x"), nb::arg("weight"), nb::arg("eps"),
             nb::arg("out"));
  module.def("linear", &bind_linear, nb::arg("x"), nb::arg("weights"), nb::arg("bias").none(),
             nb::arg("residual").none(), nb::arg("out"));
  module.def("norm_linear", &bind_norm_linear, nb::arg("x"), nb::arg("norm"), nb::arg("eps"),
             nb::arg("weights"), nb::arg("bias").none(), nb::arg("out"));
  module.def("norm_mlp", &bind_norm_mlp, nb::arg("x"), nb::arg("norm"), nb::arg("eps"),
             nb::arg("gate_up"), nb::arg("down"));
  module.def("moe", &bind_moe, nb::arg("x"), nb::arg("experts"), nb::arg("weights"),
             nb::arg("gate_up"), nb::arg("down"), nb::arg("shared_gate_up").none(),
             nb::arg("shared_down").none(), nb::arg("out"));
  module.def("route", &bind_route, nb::arg("logits"), nb::arg("bias").none(), nb::arg("spec"),
             nb::arg("experts"), nb::arg("weights"));
  module.def("argmax", &bind_argmax, nb::arg("logits"), nb::arg("out"));
  module.def("top_logprobs", &bind_top_logprobs, nb::arg("logits"), nb::arg("ids"),
             nb::arg("logprobs"), nb::arg("log_sums"));
  module.def("exponential", &bind_exponential, nb::arg("x"), nb::arg("out"),
             "out = e^x as the kernels compute it; for tests.");
  bind_machine(module);
  bind_attention(module);
  bind_layers(module);
}
