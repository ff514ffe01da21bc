// Attention's bindings: rope and the stores, paged attention, MLA.
#include "bindings_pages.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <optional>
#include <tuple>
#include <utility>

namespace tribody {
namespace {

using HeadNorms = std::tuple<In, In, float>;

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
    call.q_weight = given_vector(std::get<0>(*qk_norm), "the q norm", dim);
    call.k_weight = given_vector(std::get<1>(*qk_norm), "the k norm", dim);
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
