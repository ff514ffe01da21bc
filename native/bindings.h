// Checks that every binding shares.  bindings*.cc are the only files that Python sees: they check
// dtype, shape, strides and alignment and raise ShapeError; kernels behind them cannot fail.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>

#include "matrix.h"
#include "sampling.h"

namespace tribody {

namespace nb = nanobind;

// Becomes tribody.core.errors.ShapeError in Python.
struct ShapeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using In = nb::ndarray<nb::ro, nb::device::cpu>;  // read only is enough
using Out = nb::ndarray<nb::device::cpu>;         // written; must be writable

std::string describe(const char* name, const nb::dlpack::dtype& dtype, size_t ndim,
                     const int64_t* shape);

// `array` as rows of T: exactly `ndim` axes, the last one contiguous, aligned to T.  `name` is the
// argument's name for the message.  Returns the data pointer.
template <typename T, typename Array>
auto* checked(const Array& array, const char* name, size_t ndim) {
  const bool fits = array.dtype() == nb::dtype<T>() && array.ndim() == ndim;
  const bool has_rows = ndim > 0 && array.size() > 0 && array.shape(ndim - 1) > 1;
  if (!fits || (has_rows && array.stride(ndim - 1) != 1)) {  // strides of empty arrays mean nothing
    std::string message = std::string(name) + ": expected " + std::to_string(ndim) +
                          " axes of " + std::to_string(sizeof(T) * 8) +
                          "-bit elements of the operator's dtype, the last axis contiguous; got " +
                          describe(name, array.dtype(), array.ndim(), array.shape_ptr());
    throw ShapeError(message);
  }
  using Pointer = std::conditional_t<Array::ReadOnly, const T*, T*>;
  auto* data = static_cast<Pointer>(array.data());
  if (reinterpret_cast<uintptr_t>(data) % alignof(T) != 0) {
    throw ShapeError(std::string(name) + ": the array's memory is not aligned to its element");
  }
  return data;
}

// Raises unless actual == expected.
inline void check_size(const char* name, int64_t actual, int64_t expected) {
  if (actual != expected) {
    throw ShapeError(std::string(name) + " is " + std::to_string(actual) + ", expected " +
                     std::to_string(expected));
  }
}

// A 2-D float32 argument of `columns` columns as rows.
template <typename Array>
auto rows_of(const Array& array, const char* name, int64_t columns) {
  auto* data = checked<float>(array, name, 2);
  check_size(name, static_cast<int64_t>(array.shape(1)), columns);
  struct Result {
    decltype(data) pointer;
    int64_t stride, count;
  };
  return Result{data, array.stride(0), static_cast<int64_t>(array.shape(0))};
}

// A 1-D float32 argument of `size` elements, or null when it is None.
inline const float* vector_of(const In& array, const char* name, int64_t size) {
  if (!array.is_valid()) return nullptr;
  const float* data = checked<float>(array, name, 1);
  check_size(name, static_cast<int64_t>(array.shape(0)), size);
  return data;
}

inline void check_plain(const Matrix& matrix, const char* name) {
  if (matrix.stacked()) throw ShapeError(std::string(name) + ": expected (N, K), got (E, N, K)");
}

// (top_k, num_groups, top_groups, sigmoid, group_by_two, normalize, scale)
using RouteSpec = std::tuple<int64_t, int64_t, int64_t, bool, bool, bool, float>;

// A call without its arrays; raises for numbers that do not fit.
RouteCall router_of(const RouteSpec& spec, int64_t num_experts);

void bind_matrix(nb::module_& module);
void bind_machine(nb::module_& module);
void bind_attention(nb::module_& module);
void bind_layers(nb::module_& module);

}  // namespace tribody
