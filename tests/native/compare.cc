// Answers against what the case expects.
#include "compare.h"

#include <cmath>
#include <cstring>

namespace tribody {
namespace {

template <typename T>
T element(const Bytes& bytes, int64_t index) {
  T value;
  std::memcpy(&value, bytes.data() + static_cast<size_t>(index) * sizeof(T), sizeof(T));
  return value;
}

// In plain arithmetic, so that it shares nothing with the kernels' conversion.
double half_to_double(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  double magnitude;
  if (exponent == 31) {
    magnitude = mantissa != 0 ? NAN : INFINITY;
  } else if (exponent == 0) {
    magnitude = std::ldexp(mantissa, -24);
  } else {
    magnitude = std::ldexp(1024 + mantissa, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

double value_at(Dtype dtype, const Bytes& bytes, int64_t index) {
  switch (dtype) {
    case Dtype::float32: return element<float>(bytes, index);
    case Dtype::float16: return half_to_double(element<uint16_t>(bytes, index));
    case Dtype::int32: return element<int32_t>(bytes, index);
    case Dtype::uint8: return element<uint8_t>(bytes, index);
    default: return static_cast<double>(element<int64_t>(bytes, index));
  }
}

// The error of one element as a share of what is allowed; 0 = none, above 1 = wrong.
double error_share(double actual, double expected, double allowed, bool exact) {
  if (std::isnan(expected)) return std::isnan(actual) || (!exact && std::isinf(actual)) ? 0 : INFINITY;
  if (actual == expected) return 0;
  if (exact || !std::isfinite(actual) || !std::isfinite(expected)) return INFINITY;
  return std::abs(actual - expected) / allowed;  // 0 allowed: infinite
}

}  // namespace

std::string compare(const Case& from, const std::string& name, const Bytes& actual,
                    double& share) {
  const CaseArray& expected = from.arrays.at("expected." + name);
  if (actual.size() != expected.data.size()) return name + " has another size";
  const auto bounds = from.arrays.find("allowed." + name);
  const auto bound = from.numbers.find("allowed." + name);
  const bool exact = bounds == from.arrays.end() && bound == from.numbers.end();
  int64_t worst = -1;
  share = 0;
  for (int64_t i = 0; i < expected.count(); ++i) {
    double allowed = exact ? 0 : bound != from.numbers.end() ? bound->second : 0;
    if (bounds != from.arrays.end()) allowed = element<float>(bounds->second.data, i);
    const double own = error_share(value_at(expected.dtype, actual, i),
                                   value_at(expected.dtype, expected.data, i), allowed, exact);
    if (own > share) {
      share = own;
      worst = i;
    }
  }
  if (share <= 1) return "";
  char text[200];
  std::snprintf(text, sizeof text, "%s[%lld] is %.9g, expected %.9g: %.3g of what is allowed",
                name.c_str(), static_cast<long long>(worst),
                value_at(expected.dtype, actual, worst),
                value_at(expected.dtype, expected.data, worst), share);
  return text;
}

uint64_t fingerprint(const Case& from, const std::map<std::string, Bytes>& answers) {
  uint64_t hash = 0xcbf29ce484222325u;
  const auto add = [&](const std::byte* bytes, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      hash = (hash ^ static_cast<uint64_t>(bytes[i])) * 0x100000001b3u;
    }
  };
  for (const auto& [name, bytes] : answers) {
    const Dtype dtype = from.arrays.at("expected." + name).dtype;
    const auto size = static_cast<size_t>(bytes_of(dtype));
    for (size_t i = 0; i < bytes.size(); i += size) {
      if (std::isnan(value_at(dtype, bytes, static_cast<int64_t>(i / size)))) {
        constexpr std::byte kNan{0x7f};
        add(&kNan, 1);
      } else {
        add(bytes.data() + i, size);
      }
    }
  }
  return hash;
}

}  // namespace tribody
