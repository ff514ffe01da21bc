// The arguments of one call: guarded memory and packed matrices.
#include "arguments.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "pack.h"

namespace tribody {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr int64_t kGuardBytes = 0;
#else
constexpr int64_t kGuardBytes = 128;  // two of the widest registers
#endif

// Rows that are apart begin at an odd place and are five elements from each other, as in
// tests/ops/cases.py.
constexpr int64_t kLead = 2, kGap = 5;

constexpr int kPattern = 0xA5, kUnwritten = 0xFF;  // 0xFF... is NaN in every float format

constexpr const char* kExpected = "expected.";

bool has_prefix(const std::string& text, const char* prefix) {
  return text.rfind(prefix, 0) == 0;
}

}  // namespace

Guarded::Guarded(const CaseArray& from, bool filled)
    : dtype_(from.dtype), rows_(1), columns_(1) {
  if (from.shape.size() == 1) {
    columns_ = from.shape[0];
  } else if (!from.shape.empty()) {
    rows_ = from.shape[0];
    for (size_t axis = 1; axis < from.shape.size(); ++axis) columns_ *= from.shape[axis];
  }
  const bool apart = from.apart && from.shape.size() == 2;
  const int64_t element = bytes_of(dtype_);
  stride_ = columns_ + (apart ? kGap : 0);
  front_ = kGuardBytes + (apart ? kLead * element : 0);
  const int64_t used = rows_ == 0 ? 0 : ((rows_ - 1) * stride_ + columns_) * element;
  bytes_ = front_ + used + kGuardBytes;
  memory_ = static_cast<std::byte*>(std::malloc(static_cast<size_t>(bytes_ > 0 ? bytes_ : 1)));
  if (memory_ == nullptr) throw std::bad_alloc();
  std::memset(memory_, kPattern, static_cast<size_t>(bytes_));
  const auto row_bytes = static_cast<size_t>(columns_ * element);
  for (int64_t row = 0; row < rows_ && row_bytes > 0; ++row) {
    std::byte* to = data() + row * stride_ * element;
    if (filled) {
      std::memcpy(to, from.data.data() + static_cast<size_t>(row) * row_bytes, row_bytes);
    } else {
      std::memset(to, kUnwritten, row_bytes);
    }
  }
}

Guarded::~Guarded() { std::free(memory_); }

std::vector<std::byte> Guarded::content() const {
  const int64_t element = bytes_of(dtype_);
  const auto row_bytes = static_cast<size_t>(columns_ * element);
  std::vector<std::byte> to(static_cast<size_t>(rows_) * row_bytes);
  for (int64_t row = 0; row < rows_ && row_bytes > 0; ++row) {
    std::memcpy(to.data() + static_cast<size_t>(row) * row_bytes,
                memory_ + front_ + row * stride_ * element, row_bytes);
  }
  return to;
}

bool Guarded::intact() const {
  const int64_t element = bytes_of(dtype_);
  const auto untouched = [&](int64_t from, int64_t end) {
    for (int64_t i = from; i < end; ++i) {
      if (memory_[i] != static_cast<std::byte>(kPattern)) return false;
    }
    return true;
  };
  int64_t end = 0;
  for (int64_t row = 0; row < rows_; ++row) {
    const int64_t begin = front_ + row * stride_ * element;
    if (!untouched(end, begin)) return false;
    end = begin + columns_ * element;
  }
  return untouched(end, bytes_);
}

WeightFormat format_named(const std::string& name) {
  for (int i = 0; i < kNumFormats; ++i) {
    if (name == kLayouts[i].name) return static_cast<WeightFormat>(i);
  }
  throw CaseError("unknown weight format " + name);
}

Packed::Packed(const Case& from) {
  constexpr const char* kFormat = "format.";
  for (const auto& [key, format] : from.texts) {
    if (!has_prefix(key, kFormat)) continue;
    const std::string name = key.substr(std::strlen(kFormat));
    const CaseArray& values = from.arrays.at(name);
    const bool is_packed = values.dtype == Dtype::uint8;
    std::vector<int64_t> shape = values.shape;
    if (is_packed) {
      const CaseArray& sizes = from.arrays.at("shape." + name);
      shape.resize(static_cast<size_t>(sizes.count()));
      std::memcpy(shape.data(), sizes.data.data(), sizes.data.size());
    }
    const bool stacked = shape.size() == 3;
    auto matrix =
        std::make_unique<Matrix>(format_named(format), stacked ? shape[0] : 1,
                                 shape[shape.size() - 2], shape[shape.size() - 1], stacked);
    if (is_packed) {
      if (values.count() != matrix->num_bytes()) throw CaseError(name + " has another size");
      std::memcpy(matrix->writable(), values.data.data(), values.data.size());
    } else {
      Guarded weights(values);
      const PackCall call{reinterpret_cast<const float*>(weights.data()), matrix->view(),
                          matrix->writable()};
      TRIBODY_DISPATCH(pack(call));
    }
    matrices_[name] = std::move(matrix);
  }
}

std::map<std::string, std::vector<std::byte>> Packed::bytes() const {
  std::map<std::string, std::vector<std::byte>> to;
  for (const auto& [name, matrix] : matrices_) {
    const auto* data = reinterpret_cast<const std::byte*>(matrix->view().data);
    to["packed " + name].assign(data, data + matrix->num_bytes());
  }
  return to;
}

Arguments::Arguments(const Case& from, const Packed& packed) : case_(from), packed_(packed) {
  for (const auto& [name, values] : from.arrays) {
    if (has_prefix(name, kExpected)) {
      const std::string output = name.substr(std::strlen(kExpected));
      outputs_.insert(output);
      if (!from.arrays.contains(output)) {
        arrays_[output] = std::make_unique<Guarded>(values, false);
      }
    } else if (!has_prefix(name, "allowed.") && !has_prefix(name, "shape.") &&
               !packed.has(name)) {
      arrays_[name] = std::make_unique<Guarded>(values);
    }
  }
}

float Arguments::number(const std::string& name) const {
  return static_cast<float>(case_.numbers.at(name));
}

std::map<std::string, std::vector<std::byte>> Arguments::outputs() const {
  std::map<std::string, std::vector<std::byte>> to;
  for (const std::string& name : outputs_) to[name] = array(name).content();
  return to;
}

std::string Arguments::trespass() const {
  for (const auto& [name, values] : arrays_) {
    if (!values->intact()) return "wrote beside the rows of " + name;
    if (!outputs_.contains(name) && values->content() != case_.arrays.at(name).data) {
      return "wrote into " + name;
    }
  }
  return "";
}

}  // namespace tribody
