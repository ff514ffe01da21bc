// One case on one level.
#include "check.h"

#include <cmath>

#include "operators.h"
#include "tunables.h"

namespace tribody {
namespace {

// Where a step is cut to see that its rows do not depend on each other: one row, fewer and more
// than a tile, more than a chunk.
constexpr int64_t kPieces[] = {1, 3, 8, 2, 13, 66, 5, 1};

using Answers = std::map<std::string, Bytes>;

bool is_nan(Dtype dtype, const std::byte* bytes) {
  if (dtype == Dtype::float32) {
    float value;
    __builtin_memcpy(&value, bytes, 4);
    return std::isnan(value);
  }
  uint16_t bits;
  __builtin_memcpy(&bits, bytes, 2);
  return dtype == Dtype::float16 && (bits & 0x7fff) > 0x7c00;
}

// The same bits, whatever the sign and payload of NaN.
bool same(const Case& from, const std::string& name, const Bytes& a, const Bytes& b) {
  if (a == b) return true;
  const Dtype dtype = from.arrays.at("expected." + name).dtype;
  const auto size = static_cast<size_t>(bytes_of(dtype));
  for (size_t i = 0; i < a.size(); i += size) {
    const Bytes one(a.begin() + static_cast<ptrdiff_t>(i), a.begin() + static_cast<ptrdiff_t>(i + size));
    const Bytes two(b.begin() + static_cast<ptrdiff_t>(i), b.begin() + static_cast<ptrdiff_t>(i + size));
    if (one != two && !(is_nan(dtype, one.data()) && is_nan(dtype, two.data()))) return false;
  }
  return true;
}

// Values of the tunables that a case's name chooses, for as long as this lives.
class OtherTunables {
 public:
  explicit OtherTunables(const std::string& name) {
    uint64_t choice = 0xcbf29ce484222325u;  // FNV-1a
    for (const char c : name) choice = (choice ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    for (size_t i = 0; i < kNumTunables; ++i) {
      const Tunable& tunable = kTunables[i];
      before_.push_back(tunables.*tunable.member);
      put(tunable, tunable.values[choice % tunable.num_values]);
      choice /= tunable.num_values;
    }
  }
  ~OtherTunables() {
    for (size_t i = 0; i < kNumTunables; ++i) put(kTunables[i], before_[i]);
  }
  OtherTunables(const OtherTunables&) = delete;
  OtherTunables& operator=(const OtherTunables&) = delete;

 private:
  // As an atomic: a worker may still spin.
  static void put(const Tunable& tunable, int64_t value) {
    __atomic_store_n(&(tunables.*tunable.member), value, __ATOMIC_RELAXED);
  }

  std::vector<int64_t> before_;
};

class Check {
 public:
  Check(const Case& from, const Operator& op) : case_(from), op_(op), packed_(from) {
    rows_ = op.rows == nullptr ? 1 : from.arrays.at(op.rows).shape[0];
  }

  Verdict run(FirstLevel& first) {
    const Answers whole = answers([&](const Arguments& a) { op_.run(a, 0, rows_); }, "");
    for (const auto& [name, values] : whole) {
      double share = 0;
      add(compare(case_, name, values, share));
      verdict_.share = share > verdict_.share ? share : verdict_.share;
    }
    if (first.known) {
      for (const auto& [name, values] : first.packed) {
        if (packed_.bytes().at(name) != values) add(name + " is not as the first level packs it");
      }
      must_equal(whole, first.answers, "not the bits of the first level");
    } else {
      first = {true, packed_.bytes(), whole};
    }
    const OtherTunables tuned(case_.name);
    const Answers pieces = answers([&](const Arguments& a) { run_pieces(a); }, " in pieces");
    must_equal(pieces, whole, "not the same bits in pieces, tuned otherwise");
    return verdict_;
  }

 private:
  template <typename Run>
  Answers answers(const Run& run, const char* how) {
    const Arguments arguments(case_, packed_);
    run(arguments);
    const std::string trespass = arguments.trespass();
    if (!trespass.empty()) add(trespass + how);
    return arguments.outputs();
  }

  void run_pieces(const Arguments& arguments) {
    size_t next = case_.name.size();  // another start for another case
    for (int64_t row = 0; row < rows_;) {
      const int64_t size = kPieces[next++ % std::size(kPieces)];
      const int64_t end = row + size < rows_ ? row + size : rows_;
      op_.run(arguments, row, end);
      row = end;
    }
  }

  void must_equal(const Answers& actual, const Answers& expected, const char* problem) {
    for (const auto& [name, values] : actual) {
      if (!same(case_, name, values, expected.at(name))) add(name + ": " + problem);
    }
  }

  void add(const std::string& problem) {
    if (!problem.empty()) verdict_.problems.push_back(problem);
  }

  const Case& case_;
  const Operator& op_;
  const Packed packed_;
  int64_t rows_;
  Verdict verdict_;
};

}  // namespace

Verdict check(const Case& from, Isa level, FirstLevel& first) {
  const Operator* op = operator_named(from.op);
  if (op == nullptr) throw CaseError("no operator is named " + from.op);
  set_isa(level);
  return Check(from, *op).run(first);
}

}  // namespace tribody
