// Packed weights: encoding, taking over bytes that are packed already, decoding rows.
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <memory>
#include <tuple>
#include <vector>

#include "bindings.h"
#include "pack.h"

namespace tribody {
namespace {

using Shape = std::vector<int64_t>;
using Bytes = nb::ndarray<nb::numpy, nb::ro, uint8_t, nb::ndim<1>>;

WeightFormat format_named(const std::string& name) {
  for (int i = 0; i < kNumFormats; ++i) {
    if (name == kLayouts[i].name) return static_cast<WeightFormat>(i);
  }
  throw nb::value_error(("unknown weight format " + name).c_str());
}

nb::tuple shape_of(const Matrix& matrix) {
  const MatrixView& v = matrix.view();
  return matrix.stacked() ? nb::make_tuple(v.experts, v.rows, v.columns)
                          : nb::make_tuple(v.rows, v.columns);
}

// (N, K) or (E, N, K); no data yet.
MatrixView view_of(WeightFormat format, const Shape& shape) {
  constexpr int64_t kLargest = int64_t{1} << 20;  // keeps the product of three inside 64 bits
  if (shape.size() != 2 && shape.size() != 3) {
    throw ShapeError("shape: expected (N, K) or (E, N, K)");
  }
  for (const int64_t size : shape) {
    if (size < 0 || size > kLargest) throw ShapeError("shape: sizes must be in [0, 2^20]");
  }
  const bool stacked = shape.size() == 3;
  return {nullptr, format, stacked ? shape[0] : 1, shape[shape.size() - 2], shape.back()};
}

Matrix* pack_matrix(const In& weights, const std::string& format_name) {
  const WeightFormat format = format_named(format_name);
  const size_t ndim = weights.ndim();
  if (ndim != 2 && ndim != 3) throw ShapeError("weights: expected (N, K) or (E, N, K)");
  const float* data = checked<float>(weights, "weights", ndim);
  const bool stacked = ndim == 3;
  const auto experts = static_cast<int64_t>(stacked ? weights.shape(0) : 1);
  const auto rows = static_cast<int64_t>(weights.shape(ndim - 2));
  const auto columns = static_cast<int64_t>(weights.shape(ndim - 1));
  if ((rows > 1 && weights.stride(ndim - 2) != columns) ||
      (stacked && experts > 1 && weights.stride(0) != rows * columns)) {
    throw ShapeError("weights: expected a C-contiguous array");
  }
  auto matrix = std::make_unique<Matrix>(format, experts, rows, columns, stacked);
  const PackCall call{data, matrix->view(), matrix->writable()};
  {
    nb::gil_scoped_release release;
    TRIBODY_DISPATCH(pack(call));
  }
  return matrix.release();
}

// A stack whose experts are still to be encoded, one by one, by pack_into.
Matrix* empty_stack(const std::tuple<int64_t, int64_t, int64_t>& shape,
                    const std::string& format_name) {
  const auto [experts, rows, columns] = shape;
  const MatrixView view = view_of(format_named(format_name), {experts, rows, columns});
  auto* matrix = new Matrix(view.format, experts, rows, columns, true);
  memset(matrix->writable(), 0, static_cast<size_t>(matrix->num_bytes()));
  return matrix;
}

void pack_into(Matrix& stack, int64_t expert, const In& weights) {
  const MatrixView& whole = stack.view();
  if (!stack.stacked() || expert < 0 || expert >= whole.experts) {
    throw ShapeError("expert: not a place of this stack");
  }
  if (stack.writable() == nullptr) throw ShapeError("stack: its bytes are read-only");
  const float* data = checked<float>(weights, "weights", 2);
  check_size("weights rows", static_cast<int64_t>(weights.shape(0)), whole.rows);
  check_size("weights columns", static_cast<int64_t>(weights.shape(1)), whole.columns);
  if (whole.rows > 1 && weights.stride(0) != whole.columns) {
    throw ShapeError("weights: expected a C-contiguous array");
  }
  uint8_t* to = stack.writable() + expert * whole.bytes_per_expert();
  const PackCall call{data, MatrixView{to, whole.format, 1, whole.rows, whole.columns}, to};
  nb::gil_scoped_release release;
  TRIBODY_DISPATCH(pack(call));
}

// The bytes of `buffer` as those of a matrix of this shape; checks their number.
MatrixView view_of_bytes(const std::string& format_name, const Shape& shape, const In& buffer) {
  MatrixView view = view_of(format_named(format_name), shape);
  view.data = checked<uint8_t>(buffer, "buffer", 1);
  check_size("buffer", static_cast<int64_t>(buffer.shape(0)),
             view.experts * view.bytes_per_expert());
  return view;
}

// Without a copy: the matrix keeps the array, and the array what it is a view of.
Matrix* matrix_over(const std::string& format_name, const Shape& shape, In buffer) {
  const MatrixView view = view_of_bytes(format_name, shape, buffer);
  if (buffer.shape(0) > 0 && reinterpret_cast<uintptr_t>(view.data) % kAlignment != 0) {
    throw ShapeError("buffer: its first byte must lie at a multiple of " +
                     std::to_string(kAlignment));
  }
  return new Matrix(view, shape.size() == 3, std::make_shared<const In>(std::move(buffer)));
}

Matrix* matrix_of_copy(const std::string& format_name, const Shape& shape, const In& buffer) {
  const MatrixView view = view_of_bytes(format_name, shape, buffer);
  auto* matrix =
      new Matrix(view.format, view.experts, view.rows, view.columns, shape.size() == 3);
  memcpy(matrix->writable(), view.data, static_cast<size_t>(matrix->num_bytes()));
  return matrix;
}

// The bytes; the array keeps the matrix.
Bytes bytes_of(nb::handle self) {
  const auto& matrix = nb::cast<const Matrix&>(self);
  return Bytes(matrix.view().data, {static_cast<size_t>(matrix.num_bytes())}, self);
}

void bind_embed(const Matrix& table, const In& token_ids, const Out& out) {
  check_plain(table, "table");
  const MatrixView& view = table.view();
  const int32_t* ids = checked<int32_t>(token_ids, "token_ids", 1);
  const auto to = rows_of(out, "out columns", view.columns);
  const auto count = static_cast<int64_t>(token_ids.shape(0));
  check_size("out rows", to.count, count);
  if (token_ids.stride(0) != 1 && count > 1) throw ShapeError("token_ids: expected contiguous");
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] < 0 || ids[i] >= view.rows) {
      throw ShapeError("token_ids: " + std::to_string(ids[i]) + " is not in [0, " +
                       std::to_string(view.rows) + ")");
    }
  }
  const EmbedCall call{view, ids, count, to.pointer, to.stride};
  nb::gil_scoped_release release;
  TRIBODY_DISPATCH(embed(call));
}

using Sizes = std::tuple<std::string, int, int, int64_t, int64_t, bool>;

std::vector<Sizes> format_sizes() {
  std::vector<Sizes> sizes;
  for (const FormatLayout& own : kLayouts) {
    sizes.emplace_back(own.name, own.panel_rows, own.tile_columns, own.tile_bytes,
                       own.header_bytes, own.takes_a8);
  }
  return sizes;
}

}  // namespace

void bind_matrix(nb::module_& module) {
  nb::class_<Matrix>(module, "Matrix")
      .def_prop_ro("shape", &shape_of, nb::sig("def shape(self) -> tuple[int, ...]"))
      .def_prop_ro(
          "format", [](const Matrix& m) { return layout_of(m.view().format).name; },
          nb::sig("def format(self) -> tribody.core.config.WeightFormat"))
      .def_prop_ro("num_bytes", &Matrix::num_bytes)
      .def_prop_ro("buffer", &bytes_of,
                   nb::sig("def buffer(self) -> NDArray[numpy.uint8]"));

  module.def("pack", &pack_matrix, nb::arg("weights"), nb::arg("weight_format"),
             nb::rv_policy::take_ownership);
  module.def("empty_stack", &empty_stack, nb::arg("shape"), nb::arg("weight_format"),
             nb::rv_policy::take_ownership);
  module.def("pack_into", &pack_into, nb::arg("stack"), nb::arg("expert"), nb::arg("weights"));
  module.def("matrix_over", &matrix_over, nb::arg("weight_format"), nb::arg("shape"),
             nb::arg("buffer"), nb::rv_policy::take_ownership,
             "A matrix over packed bytes that stay where they are.");
  module.def("matrix_of_copy", &matrix_of_copy, nb::arg("weight_format"), nb::arg("shape"),
             nb::arg("buffer"), nb::rv_policy::take_ownership,
             "A matrix with a copy of packed bytes.");
  module.def("embed", &bind_embed, nb::arg("table"), nb::arg("token_ids"), nb::arg("out"));
  module.def("format_sizes", &format_sizes,
             "(name, panel_rows, tile_columns, tile_bytes, header_bytes, takes_a8) of each format.");
}

}  // namespace tribody
