// The arguments of one call: arrays in guarded memory, and matrices packed by the level in use.
#pragma once

#include <memory>
#include <set>

#include "attention.h"
#include "case_file.h"
#include "linear.h"
#include "matrix.h"

namespace tribody {

// A copy of an array, or NaN in its shape, where an overrun shows: under AddressSanitizer the memory
// ends with the array; without it, patterns stand before and behind it.  Rows that are `apart` have
// the pattern between them.
class Guarded {
 public:
  explicit Guarded(const CaseArray& from, bool filled = true);
  ~Guarded();
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  Dtype dtype() const { return dtype_; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  int64_t stride() const { return stride_; }  // elements between rows
  std::byte* data() { return memory_ + front_; }
  std::vector<std::byte> content() const;  // C order, without what lies between rows
  bool intact() const;                     // nothing beside the rows was written

 private:
  Dtype dtype_;
  int64_t rows_, columns_, stride_;  // (first axis, all others); one row of a single axis
  int64_t front_, bytes_;
  std::byte* memory_;
};

// Matrices by argument name, packed once for all calls of a case on one level.
class Packed {
 public:
  explicit Packed(const Case& from);
  const MatrixView& at(const std::string& name) const { return matrices_.at(name)->view(); }
  bool has(const std::string& name) const { return matrices_.contains(name); }
  std::map<std::string, std::vector<std::byte>> bytes() const;

 private:
  std::map<std::string, std::unique_ptr<Matrix>> matrices_;
};

class Arguments {
 public:
  Arguments(const Case& from, const Packed& packed);

  int64_t integer(const std::string& name) const { return case_.integers.at(name); }
  float number(const std::string& name) const;
  const Packed& packed() const { return packed_; }

  bool has(const std::string& name) const { return arrays_.contains(name); }
  Guarded& array(const std::string& name) const { return *arrays_.at(name); }
  int64_t columns(const std::string& name) const { return array(name).columns(); }
  bool half(const std::string& name) const { return array(name).dtype() == Dtype::float16; }

  // The data of an array, or of its row `row`; nullptr when the case has no such argument.
  template <typename T>
  T* at(const std::string& name, int64_t row = 0) const {
    if (!has(name)) return nullptr;
    return reinterpret_cast<T*>(array(name).data()) + row * array(name).stride();
  }
  int64_t stride(const std::string& name) const { return has(name) ? array(name).stride() : 0; }

  // Rows [first, end) of a float32 array of two axes.
  Rows rows(const std::string& name, int64_t first, int64_t end) const {
    return {at<const float>(name, first), stride(name), end - first};
  }
  template <typename T>
  Array2<T> array2(const std::string& name, int64_t first) const {
    return {at<T>(name, first), stride(name)};
  }

  // What the arguments that have an expected value hold.
  std::map<std::string, std::vector<std::byte>> outputs() const;
  // What was written although it must not be: an empty text, or where.
  std::string trespass() const;

 private:
  const Case& case_;
  const Packed& packed_;
  std::map<std::string, std::unique_ptr<Guarded>> arrays_;
  std::set<std::string> outputs_;
};

WeightFormat format_named(const std::string& name);

}  // namespace tribody
