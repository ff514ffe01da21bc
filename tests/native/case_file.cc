// Reads the cases that tests/native/case_file.py writes.
#include "case_file.h"

#include <cstring>

namespace tribody {
namespace {

constexpr char kMagic[] = "TRBCASE1";

// Far above any case: what a damaged size would ask for is refused before it is allocated.
constexpr int64_t kMostElements = int64_t{1} << 28;

}  // namespace

int64_t CaseArray::count() const {
  int64_t product = 1;
  for (const int64_t size : shape) product *= size;
  return product;
}

CaseReader::CaseReader(const std::string& path) : file_(std::fopen(path.c_str(), "rb")) {
  if (file_ == nullptr) throw CaseError("cannot open " + path);
  char magic[8];
  read(magic, sizeof magic);
  if (std::memcmp(magic, kMagic, sizeof magic) != 0) throw CaseError(path + " holds no cases");
}

CaseReader::~CaseReader() { std::fclose(file_); }

void CaseReader::read(void* to, size_t bytes) {
  if (bytes > 0 && std::fread(to, 1, bytes, file_) != bytes) {
    throw CaseError("the file ends in case " + std::to_string(count_));
  }
}

template <typename T>
T CaseReader::number() {
  T value;
  read(&value, sizeof value);
  return value;
}

std::string CaseReader::text() {
  std::string to(number<uint16_t>(), '\0');
  read(to.data(), to.size());
  return to;
}

CaseArray CaseReader::array() {
  const auto dtype = number<uint8_t>();
  if (dtype > static_cast<uint8_t>(Dtype::uint8)) throw CaseError("unknown dtype");
  CaseArray to{static_cast<Dtype>(dtype), number<uint8_t>() != 0, {}, {}};
  to.shape.resize(number<uint8_t>());
  int64_t product = 1;
  for (int64_t& size : to.shape) {
    size = number<int64_t>();
    if (size < 0 || size > kMostElements) throw CaseError("a size is out of range");
    product *= size;
    if (product > kMostElements) throw CaseError("an array is too large");
  }
  to.data.resize(static_cast<size_t>(product * bytes_of(to.dtype)));
  read(to.data.data(), to.data.size());
  return to;
}

bool CaseReader::next(Case& to) {
  to = Case{};
  if (number<uint8_t>() == 0) {
    if (number<uint64_t>() != count_) throw CaseError("the file has lost cases");
    return false;
  }
  ++count_;
  to.name = text();
  to.op = text();
  const int fields = number<uint16_t>();
  for (int i = 0; i < fields; ++i) {
    const std::string key = text();
    switch (number<uint8_t>()) {
      case 0: to.integers[key] = number<int64_t>(); break;
      case 1: to.numbers[key] = number<double>(); break;
      case 2: to.texts[key] = text(); break;
      case 3: to.arrays[key] = array(); break;
      default: throw CaseError("unknown kind of field in " + to.name);
    }
  }
  return true;
}

}  // namespace tribody
