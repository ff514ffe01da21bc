// Runs the cases of a file (tests/native/export.py) through the kernels of every instruction set
// that this build and this machine have.  docs/native.md says how it is built and where it is run.
//
//     runner CASES [--levels NAME,...] [--threads N] [--only TEXT] [--write-bits FILE]
//            [--same-bits FILE] [--expect-failures]
//
// A case passes on a level if its answers are within the case's tolerance (equal where it has none),
// are the bits of the first level, are the bits of the same step cut into pieces with other tunables,
// and if nothing beside the answers was written.  --write-bits notes every case's fingerprint;
// --same-bits compares with those of another build, machine or number of threads.  Exit status: 0
// all passed (with --expect-failures: all failed), 1 not, 2 the file or the arguments are wrong.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>

#include "check.h"
#include "threads.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace tribody {
namespace {

struct Options {
  std::string cases, only, write_bits, same_bits;
  std::vector<Isa> levels;
  int threads = 1;
  bool expect_failures = false;
};

struct Tally {
  int64_t cases = 0, wrong = 0;
  double share = 0;
};

using Tallies = std::map<std::string, std::vector<Tally>>;  // operator -> level
using Bits = std::map<std::string, uint64_t>;               // case -> fingerprint

// What was running, for the last words of a crash.
char running[400] = "";

void last_words() {
  std::fprintf(stderr, "ended in %s\n", running);
  std::fflush(nullptr);
}

#if !defined(__SANITIZE_ADDRESS__)
void on_signal(int signal) {
  last_words();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}
#endif

void watch_for_crashes() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_set_death_callback(last_words);
#else
  for (const int signal : {SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGABRT}) std::signal(signal, on_signal);
#endif
}

std::vector<Isa> levels_named(const std::string& list) {
  std::vector<Isa> levels;
  for (size_t from = 0; from <= list.size();) {
    const size_t comma = list.find(',', from), end = comma == std::string::npos ? list.size() : comma;
    const std::string name = list.substr(from, end - from);
    int level = 0;
    while (level < kNumIsas && name != kIsaNames[level]) ++level;
    if (level == kNumIsas || !isa_available(static_cast<Isa>(level))) {
      throw CaseError("this build or machine has no level named " + name);
    }
    levels.push_back(static_cast<Isa>(level));
    from = end + 1;
  }
  return levels;
}

std::vector<Isa> all_levels() {
  std::vector<Isa> levels;
  for (int level = 0; level < kNumIsas; ++level) {
    if (isa_available(static_cast<Isa>(level))) levels.push_back(static_cast<Isa>(level));
  }
  return levels;
}

Options parse(int count, char** words) {
  Options options;
  options.levels = all_levels();
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    const auto value = [&]() -> std::string {
      if (++i == count) throw CaseError(word + " needs a value");
      return words[i];
    };
    if (word == "--levels") {
      options.levels = levels_named(value());
    } else if (word == "--threads") {
      options.threads = std::atoi(value().c_str());
    } else if (word == "--only") {
      options.only = value();
    } else if (word == "--write-bits") {
      options.write_bits = value();
    } else if (word == "--same-bits") {
      options.same_bits = value();
    } else if (word == "--expect-failures") {
      options.expect_failures = true;
    } else if (options.cases.empty() && word[0] != '-') {
      options.cases = word;
    } else {
      throw CaseError("unknown argument " + word);
    }
  }
  if (options.cases.empty()) throw CaseError("which file of cases?");
  if (options.threads < 1) throw CaseError("--threads takes a number above 0");
  return options;
}

Bits read_bits(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw CaseError("cannot open " + path);
  Bits bits;
  for (std::string line; std::getline(file, line);) {
    bits[line.substr(17)] = std::strtoull(line.c_str(), nullptr, 16);
  }
  return bits;
}

void write_bits(const std::string& path, const Bits& bits) {
  std::ofstream file(path);
  for (const auto& [name, fingerprint] : bits) {
    char number[20];
    std::snprintf(number, sizeof number, "%016llx ", static_cast<unsigned long long>(fingerprint));
    file << number << name << '\n';
  }
  if (!file.flush()) throw CaseError("cannot write " + path);
}

void print(const Tallies& tallies, const std::vector<Isa>& levels) {
  std::printf("\n%-20s %6s", "largest error / tol.", "cases");
  for (const Isa level : levels) std::printf(" %10s", kIsaNames[static_cast<int>(level)]);
  std::printf("\n");
  for (const auto& [name, row] : tallies) {
    std::printf("%-20s %6lld", name.c_str(), static_cast<long long>(row[0].cases));
    for (const Tally& tally : row) {
      if (tally.wrong > 0) {
        std::printf(" %4lld WRONG", static_cast<long long>(tally.wrong));
      } else {
        std::printf(" %10.3f", tally.share);
      }
    }
    std::printf("\n");
  }
}

class Runner {
 public:
  explicit Runner(const Options& options) : options_(options) {
    if (!options.same_bits.empty()) others_ = read_bits(options.same_bits);
  }

  // True if the file passed.
  bool run() {
    CaseReader reader(options_.cases);
    for (Case next; reader.next(next);) {
      if (next.name.find(options_.only) == std::string::npos) continue;
      const bool wrong = run_case(next);
      ++num_cases_;
      num_wrong_ += wrong;
      if (options_.expect_failures && !wrong) report(next, "passed, and should not");
    }
    print(tallies_, options_.levels);
    if (!options_.write_bits.empty()) write_bits(options_.write_bits, bits_);
    const int64_t good = options_.expect_failures ? num_wrong_ : num_cases_ - num_wrong_;
    std::printf("%lld of %lld cases %s, %d thread%s%s%s\n", static_cast<long long>(good),
                static_cast<long long>(num_cases_),
                options_.expect_failures ? "failed as they should" : "passed", options_.threads,
                options_.threads == 1 ? "" : "s", others_.empty() ? "" : ", same bits as ",
                options_.same_bits.c_str());
    return good == num_cases_ && num_cases_ > 0;
  }

 private:
  bool run_case(const Case& from) {
    FirstLevel first;
    bool wrong = false;
    auto& row = tallies_[from.op];
    row.resize(options_.levels.size());
    for (size_t i = 0; i < options_.levels.size(); ++i) {
      const char* level = kIsaNames[static_cast<int>(options_.levels[i])];
      std::snprintf(running, sizeof running, "%s on %s", from.name.c_str(), level);
      const Verdict verdict = check(from, options_.levels[i], first);
      ++row[i].cases;
      row[i].share = verdict.share > row[i].share ? verdict.share : row[i].share;
      if (verdict.problems.empty()) continue;
      wrong = true;
      ++row[i].wrong;
      for (const std::string& problem : verdict.problems) {
        if (!options_.expect_failures) report(from, level + (": " + problem));
      }
    }
    return !agrees(from, first) || wrong;
  }

  // Notes the bits, and compares them with those that another build has noted.
  bool agrees(const Case& from, const FirstLevel& first) {
    if (from.integers.contains("libm")) return true;
    const uint64_t own = fingerprint(from, first.answers);
    bits_[from.name] = own;
    const auto other = others_.find(from.name);
    if (options_.same_bits.empty() || (other != others_.end() && other->second == own)) return true;
    report(from, other == others_.end() ? "not among those of --same-bits" : "not the same bits");
    return false;
  }

  static void report(const Case& from, const std::string& problem) {
    std::printf("WRONG %s | %s\n", from.name.c_str(), problem.c_str());
  }

  const Options& options_;
  Bits bits_, others_;
  Tallies tallies_;
  int64_t num_cases_ = 0, num_wrong_ = 0;
};

}  // namespace
}  // namespace tribody

int main(int count, char** words) {
  using namespace tribody;
  try {
    const Options options = parse(count, words);
    watch_for_crashes();
    set_num_threads(options.threads);
    return Runner(options).run() ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "runner: %s\n", error.what());
    return 2;
  }
}
