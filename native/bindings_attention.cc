// Attention's bindings: rope and the stores, paged attention, MLA.
//
// Page ids are checked for the positions that a step reads or writes; the rest of a page table may
// hold anything.
#include "bindings.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <optional>
#include <tuple>
#include <utility>

#include "attention.h"

namespace tribody {
namespace {

using Heads = std::tuple<int64_t, int64_t, int64_t>;
using Tables = std::pair<In, In>;
using HeadNorms = std::tuple<In, In, float>;

[[noreturn]] void fail(const std::string& message) { throw ShapeError(message); }

std::string text(int64_t value) { return std::to_string(value); }

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

const float* vector_of(const In& array, const char* name, int64_t size) {
  const float* data = checked<float>(array, name, 1);
  check_size(name, static_cast<int64_t>(array.shape(0)), size);
  return data;
}

void check_positive(const char* name, int64_t value, int64_t most) {
  if (value < 1 || value > most)
    fail(std::string(name) + " is " + text(value) + ", expected 1 to " + text(most));
}

void check_heads(int64_t num_heads, int64_t num_kv_heads, int64_t dim) {
  check_positive("the number of heads", num_heads, 1 << 16);
  check_positive("the number of key-value heads", num_kv_heads, num_heads);
  check_positive("head_dim", dim, kMaxHeadDim);
  if (num_heads % num_kv_heads != 0)
    fail(text(num_heads) + " heads cannot share " + text(num_kv_heads) + " key-value heads evenly");
}

void check_even(const char* name, int64_t dim) {
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
PageArray pages_of(const Array& array, const char* name, std::initializer_list<int64_t> trailing) {
  constexpr nb::dlpack::dtype float16{static_cast<uint8_t>(nb::dlpack::dtype_code::Float), 16, 1};
  const bool half = array.dtype() == float16;
  bool fits = (half || array.dtype() == nb::dtype<float>()) && array.ndim() == trailing.size() + 1;
  int64_t size = 1;
  for (size_t axis = trailing.size(); fits && axis > 0; --axis) {
    const int64_t expected = *(trailing.begin() + axis - 1);
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

void check_same_kind(const PageArray& k, const PageArray& v) {
  if (k.half != v.half || k.count != v.count)
    fail("K and V pages differ in dtype or number: " + text(k.count) + " and " + text(v.count));
}

const int64_t* slots_of(const In& array, int64_t rows, int64_t num_pages) {
  const int64_t* slots = checked<int64_t>(array, "slots", 1);
  check_size("slots", static_cast<int64_t>(array.shape(0)), rows);
  for (int64_t t = 0; t < rows; ++t)
    if (slots[t] < 0 || slots[t] >= num_pages * kPage)
      fail("slot " + text(t) + " is " + text(slots[t]) + ", expected 0 to " +
           text(num_pages * kPage - 1));
  return slots;
}

// Checks that `rows` rows are covered and that all pages they attend to exist.
Batch batch_of(const In& row_starts, const In& starts, const In& page_tables, int64_t rows,
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

void bind_rope_store(const Out& qkv, const Heads& heads, const Tables& cos_sin,
                     const std::optional<HeadNorms>& qk_norm, const In& slots,
                     const std::pair<Out, Out>& pages) {
  const auto [num_heads, num_kv_heads, dim] = heads;
  check_heads(num_heads, num_kv_heads, dim);
  check_even("head_dim", dim);
  RopeCall call{};
  call.rows = rows_in(qkv, "qkv");
  call.num_heads = num_heads;
  call.num_kv_heads = num_kv_heads;
  call.head_dim = dim;
  call.qkv = rows_of<float>(qkv, "qkv", call.rows, (num_heads + 2 * num_kv_heads) * dim);
  call.cos = rows_of<const float>(cos_sin.first, "cos", call.rows, dim / 2);
  call.sin = rows_of<const float>(cos_sin.second, "sin", call.rows, dim / 2);
  if (qk_norm) {
    call.q_weight = vector_of(std::get<0>(*qk_norm), "the q norm", dim);
    call.k_weight = vector_of(std::get<1>(*qk_norm), "the k norm", dim);
    call.eps = std::get<2>(*qk_norm);
  }
  const PageArray k = pages_of(pages.first, "K pages", {num_kv_heads, dim, kPage});
  const PageArray v = pages_of(pages.second, "V pages", {num_kv_heads, kPage, dim});
  check_same_kind(k, v);
  call.k_pages = k.data;
  call.v_pages = v.data;
  call.half = k.half;
  call.slots = slots_of(slots, call.rows, k.count);
  nb::gil_scoped_release release;
  TRIBODY_DISPATCH(rope_store(call));
}

void bind_attend(const In& q, const Heads& heads, const Tables& pages, const In& row_starts,
                 const In& starts, const In& page_tables, float scale, const Out& out) {
  const auto [num_heads, num_kv_heads, dim] = heads;
  check_heads(num_heads, num_kv_heads, dim);
  AttendCall call{};
  call.num_heads = num_heads;
  call.num_kv_heads = num_kv_heads;
  call.head_dim = dim;
  call.scale = scale;
  const int64_t rows = rows_in(q, "q");
  if (static_cast<int64_t>(q.shape(1)) < num_heads * dim)
    fail("q has " + text(q.shape(1)) + " columns, expected at least " + text(num_heads * dim));
  call.q = {checked<float>(q, "q", 2), q.stride(0)};
  call.out = rows_of<float>(out, "out", rows, num_heads * dim);
  const PageArray k = pages_of(pages.first, "K pages", {num_kv_heads, dim, kPage});
  const PageArray v = pages_of(pages.second, "V pages", {num_kv_heads, kPage, dim});
  check_same_kind(k, v);
  call.k_pages = k.data;
  call.v_pages = v.data;
  call.half = k.half;
  call.batch = batch_of(row_starts, starts, page_tables, rows, k.count);
  nb::gil_scoped_release release;
  TRIBODY_DISPATCH(attend(call));
}

void bind_mla_store(const Out& q, const Heads& head_dims, const In& kv_a, const In& norm, float eps,
                    const Tables& cos_sin, bool interleaved, const In& slots, const Out& pages) {
  const auto [num_heads, nope, rope] = head_dims;
  check_positive("the number of heads", num_heads, 1 << 16);
  check_positive("the head's part without rope", nope, 1 << 16);
  check_even("the rope part", rope);
  MlaStoreCall call{};
  call.rows = rows_in(q, "q");
  call.num_heads = num_heads;
  call.nope = nope;
  call.rope = rope;
  call.q = rows_of<float>(q, "q", call.rows, num_heads * (nope + rope));
  call.norm = checked<float>(norm, "norm", 1);
  call.rank = static_cast<int64_t>(norm.shape(0));
  check_positive("the latent's rank", call.rank, 1 << 16);
  call.kv_a = rows_of<const float>(kv_a, "kv_a", call.rows, call.rank + rope);
  call.eps = eps;
  call.cos = rows_of<const float>(cos_sin.first, "cos", call.rows, rope / 2);
  call.sin = rows_of<const float>(cos_sin.second, "sin", call.rows, rope / 2);
  call.interleaved = interleaved;
  const PageArray array = pages_of(pages, "latent pages", {kPage, call.rank + rope});
  call.pages = array.data;
  call.half = array.half;
  call.slots = slots_of(slots, call.rows, array.count);
  nb::gil_scoped_release release;
  TRIBODY_DISPATCH(mla_store(call));
}

// What both forms share; call.rank and call.value_dim are set.
void fill_mla(MlaAttendCall& call, const In& q, const Heads& head_dims, const In& pages,
              const In& row_starts, const In& starts, const In& page_tables, const Out& out) {
  std::tie(call.num_heads, call.nope, call.rope) = head_dims;
  check_positive("the number of heads", call.num_heads, 1 << 16);
  check_positive("the head's part without rope", call.nope, 1 << 16);
  check_positive("the rope part", call.rope, kMaxHeadDim);
  call.rows = rows_in(q, "q");
  call.q = rows_of<const float>(q, "q", call.rows, call.num_heads * (call.nope + call.rope));
  call.out = rows_of<float>(out, "out", call.rows, call.num_heads * call.value_dim);
  const PageArray array = pages_of(pages, "latent pages", {kPage, call.rank + call.rope});
  call.pages = array.data;
  call.half = array.half;
  call.batch = batch_of(row_starts, starts, page_tables, call.rows, array.count);
}

void bind_mla_attend_absorbed(const In& q, const Heads& head_dims, const Matrix& w_uk,
                              const Matrix& w_uv, const In& pages, const In& row_starts,
                              const In& starts, const In& page_tables, float scale,
                              const Out& out) {
  const MatrixView &uk = w_uk.view(), &uv = w_uv.view();
  MlaAttendCall call{};
  call.w_uk = &uk;
  call.w_uv = &uv;
  call.rank = uk.rows;
  call.value_dim = uv.rows;
  call.scale = scale;
  check_size("matrices in w_uk", uk.experts, std::get<0>(head_dims));
  check_size("matrices in w_uv", uv.experts, std::get<0>(head_dims));
  check_size("columns of w_uk", uk.columns, std::get<1>(head_dims));
  check_size("columns of w_uv", uv.columns, uk.rows);
  fill_mla(call, q, head_dims, pages, row_starts, starts, page_tables, out);
  nb::gil_scoped_release release;
  TRIBODY_DISPATCH(mla_attend_absorbed(call));
}

void bind_mla_attend_expanded(const In& q, const Heads& head_dims, const Matrix& kv_b,
                              const In& pages, const In& row_starts, const In& starts,
                              const In& page_tables, float scale, const Out& out) {
  const auto [num_heads, nope, rope] = head_dims;
  const MatrixView& view = kv_b.view();
  check_positive("the number of heads", num_heads, 1 << 16);
  MlaAttendCall call{};
  call.kv_b = &view;
  call.rank = view.columns;
  call.value_dim = view.rows / num_heads - nope;
  call.scale = scale;
  check_size("matrices in kv_b", view.experts, 1);
  check_positive("the value columns of kv_b", call.value_dim, 1 << 16);
  check_size("rows of kv_b", view.rows, num_heads * (nope + call.value_dim));
  fill_mla(call, q, head_dims, pages, row_starts, starts, page_tables, out);
  nb::gil_scoped_release release;
  TRIBODY_DISPATCH(mla_attend_expanded(call));
}

}  // namespace

void bind_attention(nb::module_& module) {
  using namespace nb::literals;
  module.def("rope_store", &bind_rope_store, "qkv"_a, "heads"_a, "cos_sin"_a,
             "qk_norm"_a.none(), "slots"_a, "pages"_a);
  module.def("attend", &bind_attend, "q"_a, "heads"_a, "pages"_a, "row_starts"_a, "starts"_a,
             "page_tables"_a, "scale"_a, "out"_a);
  module.def("mla_store", &bind_mla_store, "q"_a, "head_dims"_a, "kv_a"_a, "norm"_a, "eps"_a,
             "cos_sin"_a, "interleaved"_a, "slots"_a, "pages"_a);
  module.def("mla_attend_absorbed", &bind_mla_attend_absorbed, "q"_a, "head_dims"_a, "w_uk"_a,
             "w_uv"_a, "pages"_a, "row_starts"_a, "starts"_a, "page_tables"_a, "scale"_a, "out"_a);
  module.def("mla_attend_expanded", &bind_mla_attend_expanded, "q"_a, "head_dims"_a, "kv_b"_a,
             "pages"_a, "row_starts"_a, "starts"_a, "page_tables"_a, "scale"_a, "out"_a);
}

}  // namespace tribody
