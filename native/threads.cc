// The worker pool.
//
// A job is published as one 64-bit word, (generation << 32) | chunks left.  Claiming a chunk is a
// compare-and-swap of that word: it succeeds only while the job lives (its owner waits until every
// claimed chunk has reported), so a worker that wakes late can never run a finished job's task.
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

class Pool {
 public:
  explicit Pool(int num_workers) {
    for (int i = 0; i < num_workers; ++i) {
      std::thread([this] { work(); }).detach();
    }
  }

  // The owner must hold the pool's busy lock.
  void run(int64_t num_chunks, ChunkTask task, void* context) {
    task_ = task;
    context_ = context;
    num_chunks_ = num_chunks;
    done_.store(0, std::memory_order_relaxed);
    const uint64_t generation = (state_.load(std::memory_order_relaxed) >> 32) + 1;
    state_.store(generation << 32 | static_cast<uint64_t>(num_chunks), std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      std::lock_guard<std::mutex> guard(mutex_);
      wake_.notify_all();
    }
    while (run_one()) {
    }
    int spins = 0;
    while (done_.load(std::memory_order_acquire) != num_chunks) {
      if (++spins < kOwnerSpins) {
        pause_core();
      } else {
        std::this_thread::yield();
      }
    }
  }

 private:
  // Claims and runs one chunk; false when none is left.
  bool run_one() {
    uint64_t seen = state_.load(std::memory_order_acquire);
    while ((seen & 0xffffffffu) != 0) {
      if (state_.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
        task_(context_, num_chunks_ - static_cast<int64_t>(seen & 0xffffffffu));
        done_.fetch_add(1, std::memory_order_release);
        return true;
      }
    }
    return false;
  }

  bool has_work() const { return (state_.load(std::memory_order_seq_cst) & 0xffffffffu) != 0; }

  void work() {
    for (;;) {
      while (run_one()) {
      }
      // Read as an atomic: a worker may still spin when another value is set.
      const int64_t spin_us = __atomic_load_n(&tunables.spin_us, __ATOMIC_RELAXED);
      const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(spin_us);
      bool found = false;
      while (!found && std::chrono::steady_clock::now() < until) {
        for (int i = 0; i < kPausesPerLook && !found; ++i) {
          pause_core();
          found = has_work();
        }
      }
      if (!found) {
        std::unique_lock<std::mutex> lock(mutex_);
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock, [this] { return has_work() || stop_; });
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
  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  ChunkTask task_ = nullptr;
  void* context_ = nullptr;
  int64_t num_chunks_ = 0;
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
