// The threads of the kernels: one pool for the whole process.
//
// Not OpenMP's, which keeps a pool for each thread that calls: MindSpore calls from several, on a processor that has
// none to spare, so that threads of one pool wait where those of another work, and each call wakes sleepers. Here a
// caller never waits for a thread that has not begun: what is left to do it does itself.
#include "threads.h"

#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ms_bert {
namespace {

using Clock = std::chrono::steady_clock;

// An idle thread looks out for work for so long before it sleeps: kernels of a step follow each other within that.
constexpr auto ALERT = std::chrono::microseconds(200);

std::atomic<int> wanted{0};

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

#if defined(__linux__)
// The processors that the process may run on.
cpu_set_t usable() {
  cpu_set_t set;
  if (sched_getaffinity(getpid(), sizeof set, &set) != 0) CPU_ZERO(&set);
  return set;
}
#endif

int allowed() {
#if defined(__linux__)
  const cpu_set_t set = usable();
  if (CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

// How many processors' time a container may take, the last one's in part, or `most` where it may take more.
int within_quota(int most) {
  std::FILE *file = std::fopen("/sys/fs/cgroup/cpu.max", "r");
  if (!file) return most;
  double time = 0, period = 0;  // microseconds; "max" for no limit
  const bool limited = std::fscanf(file, "%lf %lf", &time, &period) == 2 && time > 0 && period > 0;
  std::fclose(file);
  return limited && time < most * period ? static_cast<int>(std::ceil(time / period)) : most;
}

// Keep this thread to the processor at a place among the usable ones, so that it does not wake in its caller's place.
// The caller may run anywhere; what a helper has not begun it does itself.
void stay(int place) {
#if defined(__linux__)
  const cpu_set_t all = usable();
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &all) && place-- == 0) CPU_SET(cpu, &one);
  if (CPU_COUNT(&one) == 1) pthread_setaffinity_np(pthread_self(), sizeof one, &one);
#endif
}

class Pool {
 public:
  // task(context, i) for i = 0 .. tasks - 1, by this thread and `helpers` others.
  void run(int64_t tasks, int helpers, void *context, Task task) {
    const std::unique_lock<std::mutex> mine(busy_, std::try_to_lock);
    if (!mine || tasks >= static_cast<int64_t>(COUNT)) {  // another thread's kernel has the pool
      for (int64_t i = 0; i < tasks; i++) task(context, i);
      return;
    }
    if (helpers != wanted_) resize(helpers);
    task_ = task, context_ = context, tasks_ = tasks, failed_ = false;
    unfinished_ = tasks;
    open_ = (open_ / COUNT + 1) * COUNT + tasks;
    if (asleep_ > 0) {
      { const std::lock_guard<std::mutex> guard(sleep_); }
      wake_.notify_all();
    }
    work();
    for (int turn = 0; unfinished_.load(std::memory_order_acquire) > 0; turn++)
      turn < 10000 ? relax() : std::this_thread::yield();
    if (failed_) throw std::bad_alloc();
  }

 private:
  static constexpr uint64_t COUNT = uint64_t{1} << 32;

  // Take tasks while there are any.
  void work() {
    uint64_t open = open_.load(std::memory_order_acquire);
    while (open % COUNT > 0) {
      if (!open_.compare_exchange_weak(open, open - 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      // This task is not finished, so the job is the one that it was taken from.
      try {
        task_(context_, tasks_ - static_cast<int64_t>(open % COUNT));
      } catch (...) {  // there is no memory, which the caller says
        failed_ = true;
      }
      unfinished_.fetch_sub(1, std::memory_order_acq_rel);
      open = open_.load(std::memory_order_acquire);
    }
  }

  void help() {
    for (auto begun = Clock::now(); !stop_;) {
      for (int turn = 0; turn < 64 && open_.load(std::memory_order_relaxed) % COUNT == 0; turn++) relax();
      if (open_ % COUNT > 0) {
        work();
        begun = Clock::now();
      } else if (Clock::now() - begun > ALERT) {
        std::unique_lock<std::mutex> guard(sleep_);
        asleep_++;
        wake_.wait(guard, [this] { return open_ % COUNT > 0 || stop_; });
        asleep_--;
        begun = Clock::now();
      }
    }
  }

  void resize(int helpers) {
    {
      const std::lock_guard<std::mutex> guard(sleep_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread &helper : helpers_) helper.join();
    helpers_.clear();
    stop_ = false;
    wanted_ = helpers;
    // With fewer threads than processors, other processes may want the rest: then the system chooses.
    const bool all = helpers + 1 == allowed();
    try {
      for (int i = 0; i < helpers; i++)
        helpers_.emplace_back([this, i, all] {
          if (all) stay(i + 1);
          help();
        });
    } catch (const std::system_error &) {  // the process may have no more threads: those that there are will do
    }
  }

  std::mutex busy_;  // held by the thread whose job it is
  Task task_ = nullptr;
  void *context_ = nullptr;
  int64_t tasks_ = 0;
  alignas(64) std::atomic<uint64_t> open_{0};  // the job's number * COUNT + the tasks that nobody has taken
  alignas(64) std::atomic<int64_t> unfinished_{0};
  std::atomic<bool> failed_{false}, stop_{false};
  std::mutex sleep_;
  std::condition_variable wake_;
  std::atomic<int> asleep_{0};
  std::vector<std::thread> helpers_;
  int wanted_ = 0;  // helpers; there may be fewer
};

Pool *pool = nullptr;  // is never freed: its threads end with the process

// A forked process has the memory of the pool and none of its threads: it begins another.
void begin() { pool = new Pool; }

Pool &the_pool() {
  static const bool begun = [] {
    begin();
    pthread_atfork(nullptr, nullptr, begin);
    return true;
  }();
  (void)begun;
  return *pool;
}

}  // namespace

void set_threads(int threads) { wanted = threads; }

int threads() {
  static const int all = within_quota(allowed());
  const int given = wanted.load(std::memory_order_relaxed);
  return given > 0 ? given : all;
}

void share(int64_t tasks, void *context, Task task) { the_pool().run(tasks, threads() - 1, context, task); }

Memory::Memory(int64_t floats) {
  constexpr size_t line = 64, huge = size_t{1} << 21;
  const size_t size = floats * sizeof(float), multiple = size < 2 * huge ? line : huge;
  const size_t whole = (size + multiple - 1) / multiple * multiple;
  floats_.reset(static_cast<float *>(std::aligned_alloc(multiple, whole)));
  if (!floats_) throw std::bad_alloc();
#if defined(__linux__)
  if (multiple == huge) madvise(floats_.get(), whole, MADV_HUGEPAGE);
#endif
}

float *scratch(int64_t floats, int which) {
  static thread_local std::unique_ptr<Memory> memories[3];
  static thread_local int64_t sizes[3] = {};
  std::unique_ptr<Memory> &memory = memories[which];
  if (!memory || floats > sizes[which]) {
    memory.reset();
    sizes[which] = 0;
    const int64_t some = std::max<int64_t>(floats, 1);  // of no rows there is nothing to keep
    memory.reset(new Memory(some));
    sizes[which] = some;
  }
  return memory->get();
}

}  // namespace ms_bert
