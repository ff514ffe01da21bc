// The worker pool.
//
// Every thread has a share of a job's chunks, a run of them, published as one 64-bit word:
// (generation << 32) | chunks left.  Claiming a chunk is a compare-and-swap of that word: it succeeds
// only while the job lives (its owner waits until every claimed chunk has reported), so a worker that
// wakes late can never run a finished job's task.  A thread that has finished its share helps with
// the others', so one that is slow or asleep costs little; while none is, a claim touches a cache
// line of the thread's own.  With one word for all, a job of 16 chunks of 2 us spent a tenth of its
// time handing that line from core to core (two cores of a Xeon).
// Workers spin for a short while after their last chunk, because the next kernel of a step follows
// within microseconds, and then sleep, so that other processes keep the cores.
#include "threads.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "tunables.h"
#include "upcoming.h"

namespace tribody {
namespace {

// Pauses between looks at the clock while spinning, and spins of the owner before it yields its
// core: a worker that holds the last chunk may have been descheduled.
constexpr int kPausesPerLook = 32;
constexpr int kOwnerSpins = 4000;

inline void pause_core() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// One thread's share of a job, on a cache line of its own: the word, and what a chunk is.
struct alignas(64) Share {
  std::atomic<uint64_t> word{0};
  ChunkTask task = nullptr;
  void* context = nullptr;
  int64_t end = 0;  // the chunk after the share's last
};

constexpr uint64_t kLeft = 0xffffffffu;

// What the calling thread does for the pool.
struct Running {
  const Upcoming* upcoming = nullptr;
  int self = 0, threads = 1;
  bool last_of_share = false;
  Fetcher fetcher;

  bool fetch() { return fetcher.some(*upcoming, self, threads); }
};
thread_local Running running;

class Pool {
 public:
  explicit Pool(int num_workers) : num_threads_(num_workers + 1), shares_(new Share[num_threads_]) {
    for (int i = 1; i < num_threads_; ++i) {
      std::thread([this, i] { work(i); }).detach();
    }
  }

  // What is read after the next region.
  void expect(const Reading& reading) { upcoming_.set(reading); }

  // The owner must hold the pool's busy lock.
  void run(int64_t num_chunks, ChunkTask task, void* context) {
    done_.store(0, std::memory_order_relaxed);
    const uint64_t generation = (shares_[0].word.load(std::memory_order_relaxed) >> 32) + 1;
    for (int64_t i = 0, begin = 0; i < num_threads_; ++i) {
      Share& share = shares_[i];
      share.task = task;
      share.context = context;
      share.end = end_of_share(num_chunks, num_threads_, i);
      const auto count = static_cast<uint64_t>(share.end - begin);
      share.word.store(generation << 32 | count, std::memory_order_seq_cst);
      begin = share.end;
    }
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      std::lock_guard<std::mutex> guard(mutex_);
      wake_.notify_all();
    }
    Running& own = begin_running(0);
    run_shares(own);
    int spins = 0;
    while (done_.load(std::memory_order_acquire) != num_chunks) {
      if (own.fetch()) continue;
      if (++spins < kOwnerSpins) {
        pause_core();
      } else {
        std::this_thread::yield();
      }
    }
  }

 private:
  Running& begin_running(int self) {
    Running& own = running;
    own.upcoming = &upcoming_;
    own.self = self;
    own.threads = num_threads_;
    return own;
  }

  // Claims and runs the chunks of share i; returns how many.
  int64_t run_share(int i, Running& own) {
    Share& share = shares_[i];
    int64_t count = 0;
    uint64_t seen = share.word.load(std::memory_order_acquire);
    while ((seen & kLeft) != 0) {
      if (share.word.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel,
                                           std::memory_order_acquire)) {
        own.last_of_share = i == own.self && (seen & kLeft) == 1;
        share.task(share.context, share.end - static_cast<int64_t>(seen & kLeft));
        ++count;
        seen = share.word.load(std::memory_order_acquire);
      }
    }
    return count;
  }

  // One's own share, then what is left of the others'.  Every claimed chunk is reported before any of
  // another job can be claimed: the owner waits for it.
  void run_shares(Running& own) {
    for (int i = 0; i < num_threads_; ++i) {
      const int64_t count = run_share((own.self + i) % num_threads_, own);
      if (count > 0) done_.fetch_add(count, std::memory_order_release);
    }
    own.last_of_share = false;
  }

  bool has_work(int self) const {
    return (shares_[self].word.load(std::memory_order_seq_cst) & kLeft) != 0;
  }

  void work(int self) {
    Running& own = begin_running(self);
    for (;;) {
      run_shares(own);
      // Read as an atomic: a worker may still spin when another value is set.
      const int64_t spin_us = __atomic_load_n(&tunables.spin_us, __ATOMIC_RELAXED);
      const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(spin_us);
      bool found = false;
      while (!found && std::chrono::steady_clock::now() < until) {
        for (int i = 0; i < kPausesPerLook && !found; ++i) {
          if (!own.fetch()) pause_core();
          found = has_work(self);
        }
      }
      if (!found) {
        std::unique_lock<std::mutex> lock(mutex_);
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock, [this, self] { return has_work(self) || stop_; });
        sleepers_.fetch_sub(1, std::memory_order_seq_cst);
        if (stop_) return;
      }
    }
  }

 public:
  // Ends the workers once they sleep.  The pool itself is left allocated (a few hundred bytes): its
  // workers are detached and may still be on their way out.
  void retire() {
    std::lock_guard<std::mutex> guard(mutex_);
    stop_ = true;
    wake_.notify_all();
  }

 private:
  const int num_threads_;  // the owner is thread 0
  Share* const shares_;    // of each thread
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  alignas(64) Upcoming upcoming_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
};

std::atomic<Pool*> the_pool{nullptr};
std::atomic<int> the_num_threads{0};
std::atomic_flag pool_busy = ATOMIC_FLAG_INIT;

// A forked child has the pool's memory but none of its threads.
void forget_pool_in_child() {
  the_pool.store(nullptr);
  pool_busy.clear();
}

}  // namespace

int num_threads() {
  const int count = the_num_threads.load(std::memory_order_relaxed);
  if (count > 0) return count;
  // Asked once: it is a system call, and a kernel call takes less.
  static const unsigned cores = std::thread::hardware_concurrency();
  return cores == 0 ? 1 : static_cast<int>(cores);
}

void set_num_threads(int count) {
  while (pool_busy.test_and_set(std::memory_order_acquire)) std::this_thread::yield();
  if (count != num_threads() || the_num_threads.load() == 0) {
    the_num_threads.store(count);
    if (Pool* old = the_pool.exchange(nullptr)) old->retire();
  }
  pool_busy.clear(std::memory_order_release);
}

void parallel_run(int64_t num_chunks, ChunkTask task, void* context) {
  if (num_chunks <= 0) return;
  const int threads = num_threads();
  // The pool is also busy when this call comes from inside a chunk.
  if (num_chunks == 1 || threads == 1 ||
      pool_busy.test_and_set(std::memory_order_acquire)) {
    for (int64_t chunk = 0; chunk < num_chunks; ++chunk) task(context, chunk);
    return;
  }
  Pool* pool = the_pool.load(std::memory_order_acquire);
  if (pool == nullptr) {
    static const int registered = pthread_atfork(nullptr, nullptr, forget_pool_in_child);
    (void)registered;
    pool = new Pool(threads - 1);
    the_pool.store(pool, std::memory_order_release);
  }
  pool->run(num_chunks, task, context);
  pool_busy.clear(std::memory_order_release);
}

namespace {

Successors successors;

}  // namespace

void begin_reading(const Reading& reading) {
  Pool* pool = the_pool.load(std::memory_order_acquire);
  if (pool == nullptr || pool_busy.test_and_set(std::memory_order_acquire)) return;
  const Reading* next = successors.after(reading);
  if (next != nullptr) pool->expect(*next);
  pool_busy.clear(std::memory_order_release);
}

const uint8_t* reading_after_share(int64_t bytes) {
  Running& own = running;
  if (!own.last_of_share) return nullptr;
  return own.fetcher.skip(*own.upcoming, own.self, own.threads, bytes);
}

namespace {

struct ScratchOfThread {
  void* memory[static_cast<int>(Scratch::count)] = {};
  size_t size[static_cast<int>(Scratch::count)] = {};
  ~ScratchOfThread() {
    for (void* piece : memory) std::free(piece);
  }
};
thread_local ScratchOfThread scratch_of_thread;

}  // namespace

void* scratch_bytes(Scratch slot, size_t bytes) {
  ScratchOfThread& own = scratch_of_thread;
  const int index = static_cast<int>(slot);
#if defined(__SANITIZE_ADDRESS__)
  // Every piece its own, and no longer than asked for: an overrun, and the use of a piece after the
  // slot was asked for again, show.
  std::free(own.memory[index]);
  own.memory[index] = nullptr;
  if (posix_memalign(&own.memory[index], 64, bytes > 0 ? bytes : 1) != 0) throw std::bad_alloc();
#else
  if (bytes > own.size[index] || own.memory[index] == nullptr) {
    const size_t rounded = (bytes + bytes / 2 + 4096) / 64 * 64;
    std::free(own.memory[index]);
    own.memory[index] = std::aligned_alloc(64, rounded);
    own.size[index] = own.memory[index] == nullptr ? 0 : rounded;
    if (own.memory[index] == nullptr) throw std::bad_alloc();
  }
#endif
  return own.memory[index];
}

}  // namespace tribody
