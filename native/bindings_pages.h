// Checks that bindings of attention and of whole layers share: heads, pages, slots, batches.
//
// Page ids are checked for the positions that a step reads or writes; the rest of a page table may
// hold anything.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "attention.h"
#include "bindings.h"

namespace tribody {

using Heads = std::tuple<int64_t, int64_t, int64_t>;
using Tables = std::pair<In, In>;

[[noreturn]] inline void fail(const std::string& message) { throw ShapeError(message); }

inline std::string text(int64_t value) { return std::to_string(value); }

// An array (rows, columns) of float32; its rows may be strided.
template <typename T, typename Array>
Array2<T> rows_of(const Array& array, const char* name, int64_t rows, int64_t columns) {
  T* data = checked<float>(array, name, 2);
  check_size((std::string("rows of ") + name).c_str(), static_cast<int64_t>(array.shape(0)), rows);
  check_size((std::string("columns of ") + name).c_str(), static_cast<int64_t>(array.shape(1)),
             columns);
  return {data, array.stride(0)};
}

template <typename Array>
int64_t rows_in(const Array& array, const char* name) {
  if (array.ndim() != 2)
    fail(std::string(name) + " has " + text(array.ndim()) + " axes, expected 2");
  return static_cast<int64_t>(array.shape(0));
}

// Like vector_of, for what may not be None.
inline const float* given_vector(const In& array, const char* name, int64_t size) {
  const float* data = checked<float>(array, name, 1);
  check_size(name, static_cast<int64_t>(array.shape(0)), size);
  return data;
}

inline void check_positive(const char* name, int64_t value, int64_t most) {
  if (value < 1 || value > most)
    fail(std::string(name) + " is " + text(value) + ", expected 1 to " + text(most));
}

inline void check_heads(int64_t num_heads, int64_t num_kv_heads, int64_t dim) {
  check_positive("the number of heads", num_heads, 1 << 16);
  check_positive("the number of key-value heads", num_kv_heads, num_heads);
  check_positive("head_dim", dim, kMaxHeadDim);
  if (num_heads % num_kv_heads != 0)
    fail(text(num_heads) + " heads cannot share " + text(num_kv_heads) + " key-value heads evenly");
}

inline void check_even(const char* name, int64_t dim) {
  check_positive(name, dim, kMaxHeadDim);
  if (dim % 2 != 0) fail(std::string(name) + " is " + text(dim) + ": rotation needs an even size");
}

struct PageArray {
  void* data;
  bool half;
  int64_t count;
};

// A C-contiguous page array of float32 or float16 with the given trailing axes.
template <typename Array>
PageArray pages_of(const Array& array, const char* name, const std::vector<int64_t>& trailing) {
  constexpr nb::dlpack::dtype float16{static_cast<uint8_t>(nb::dlpack::dtype_code::Float), 16, 1};
  const bool half = array.dtype() == float16;
  bool fits = (half || array.dtype() == nb::dtype<float>()) && array.ndim() == trailing.size() + 1;
  int64_t size = 1;
  for (size_t axis = trailing.size(); fits && axis > 0; --axis) {
    const int64_t expected = trailing[axis - 1];
    fits = static_cast<int64_t>(array.shape(axis)) == expected && array.stride(axis) == size;
    size *= expected;
  }
  if (fits && array.shape(0) > 1) fits = array.stride(0) == size;
  if (!fits) {
    std::string wanted = "(P";
    for (int64_t axis : trailing) wanted += ", " + text(axis);
    fail(std::string(name) + ": expected contiguous float32 or float16 pages " + wanted +
         "); got " + describe(name, array.dtype(), array.ndim(), array.shape_ptr()));
  }
  return {const_cast<void*>(static_cast<const void*>(array.data())), half,
          static_cast<int64_t>(array.shape(0))};
}

inline void check_same_kind(const PageArray& k, const PageArray& v) {
  if (k.half != v.half || k.count != v.count)
    fail("K and V pages differ in dtype or number: " + text(k.count) + " and " + text(v.count));
}

inline const int64_t* slots_of(const In& array, int64_t rows, int64_t num_pages) {
  const int64_t* slots = checked<int64_t>(array, "slots", 1);
  check_size("slots", static_cast<int64_t>(array.shape(0)), rows);
  for (int64_t t = 0; t < rows; ++t)
    if (slots[t] < 0 || slots[t] >= num_pages * kPage)
      fail("slot " + text(t) + " is " + text(slots[t]) + ", expected 0 to " +
           text(num_pages * kPage - 1));
  return slots;
}

// Checks that `rows` rows are covered and that all pages they attend to exist.
inline Batch batch_of(const In& row_starts, const In& starts, const In& page_tables, int64_t rows,
                      int64_t num_pages) {
  Batch batch{};
  batch.row_starts = checked<int32_t>(row_starts, "row_starts", 1);
  batch.starts = checked<int32_t>(starts, "starts", 1);
  batch.page_tables = checked<int32_t>(page_tables, "page_tables", 2);
  batch.num_sequences = static_cast<int64_t>(starts.shape(0));
  check_size("row_starts", static_cast<int64_t>(row_starts.shape(0)), batch.num_sequences + 1);
  check_size("rows of page_tables", static_cast<int64_t>(page_tables.shape(0)),
             batch.num_sequences);
  batch.table_length = static_cast<int64_t>(page_tables.shape(1));
  batch.table_stride = page_tables.stride(0);
  if (batch.row_starts[0] != 0 || batch.row_starts[batch.num_sequences] != rows)
    fail("row_starts runs from " + text(batch.row_starts[0]) + " to " +
         text(batch.row_starts[batch.num_sequences]) + ", expected 0 to " + text(rows));
  for (int64_t b = 0; b < batch.num_sequences; ++b) {
    const int64_t length = batch.rows(b);
    if (length < 0) fail("row_starts falls at sequence " + text(b));
    if (batch.starts[b] < 0) fail("starts[" + text(b) + "] is " + text(batch.starts[b]));
    if (length == 0) continue;
    const int64_t needed = (batch.starts[b] + length + kPage - 1) / kPage;
    if (needed > batch.table_length)
      fail("sequence " + text(b) + " needs " + text(needed) + " pages, its table holds " +
           text(batch.table_length));
    for (int64_t i = 0; i < needed; ++i) {
      const int32_t page = batch.table(b)[i];
      if (page < 0 || page >= num_pages)
        fail("page " + text(i) + " of sequence " + text(b) + " is " + text(page) +
             ", expected 0 to " + text(num_pages - 1));
    }
  }
  return batch;
}

}  // namespace tribody
