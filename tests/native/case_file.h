// Reads the cases that tests/native/case_file.py writes; the format stands there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace tribody {

enum class Dtype : uint8_t { float32, float16, int32, int64, uint8 };

inline constexpr int64_t bytes_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float16: return 2;
    case Dtype::int64: return 8;
    case Dtype::uint8: return 1;
    default: return 4;
  }
}

struct CaseArray {
  Dtype dtype;
  bool apart;
  std::vector<int64_t> shape;
  std::vector<std::byte> data;  // C order

  int64_t count() const;
};

struct Case {
  std::string name, op;
  std::map<std::string, int64_t> integers;
  std::map<std::string, double> numbers;
  std::map<std::string, std::string> texts;
  std::map<std::string, CaseArray> arrays;
};

struct CaseError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class CaseReader {
 public:
  explicit CaseReader(const std::string& path);
  ~CaseReader();
  CaseReader(const CaseReader&) = delete;
  CaseReader& operator=(const CaseReader&) = delete;

  // The next case; false at the end.  Raises CaseError when the file is damaged or cut.
  bool next(Case& to);

 private:
  void read(void* to, size_t bytes);
  template <typename T>
  T number();
  std::string text();
  CaseArray array();

  std::FILE* file_;
  uint64_t count_ = 0;
};

}  // namespace tribody
