// A packed weight: E matrices (N, K) of one format, panel after panel (formats.h).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

#include "formats.h"

namespace tribody {

// What kernels see: plain numbers, trivially copied, valid as long as the Matrix lives.
struct MatrixView {
  const uint8_t* data;
  WeightFormat format;
  int64_t experts;  // 1 for a plain matrix
  int64_t rows;     // N
  int64_t columns;  // K

  int64_t num_panels() const {
    const int64_t height = panel_rows(format);
    return (rows + height - 1) / height;
  }
  int64_t bytes_per_panel() const { return panel_bytes(format, columns); }
  int64_t bytes_per_expert() const { return num_panels() * bytes_per_panel(); }
  const uint8_t* panel(int64_t expert, int64_t index) const {
    return data + expert * bytes_per_expert() + index * bytes_per_panel();
  }
};

// Uninitialised memory aligned to 64 bytes or more, on huge pages where the system offers them (a 100 MB
// matrix set is 35,000 small pages: the TLB misses are visible in GEMV).  nullptr when there is none.
uint8_t* allocate_weights(int64_t bytes);

// The owner of the bytes, or of whatever owns them.  Not copied; Python holds it.
class Matrix {
 public:
  // Memory of its own, uninitialised.
  Matrix(WeightFormat format, int64_t experts, int64_t rows, int64_t columns, bool stacked)
      : view_{nullptr, format, experts, rows, columns}, stacked_(stacked) {
    own_ = allocate_weights(num_bytes());
    if (own_ == nullptr) throw std::bad_alloc();
    view_.data = own_;
  }
  // Over the bytes at view.data, which stay where they are and as they are while `keeper` lives.
  Matrix(const MatrixView& view, bool stacked, std::shared_ptr<const void> keeper)
      : view_(view), stacked_(stacked), own_(nullptr), keeper_(std::move(keeper)) {}
  ~Matrix() { std::free(own_); }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;

  const MatrixView& view() const { return view_; }
  uint8_t* writable() { return own_; }  // null when the bytes are someone else's
  bool stacked() const { return stacked_; }  // (E, N, K), not (N, K)
  int64_t num_bytes() const { return view_.experts * view_.bytes_per_expert(); }

 private:
  MatrixView view_;
  bool stacked_;
  uint8_t* own_;
  std::shared_ptr<const void> keeper_;
};

}  // namespace tribody
