#include "pool.hpp"

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#if !defined(_WIN32)
#include <unistd.h>
#else
#include <process.h>
#define getpid _getpid
#endif

namespace {

struct Job {
  Task task;
  void* body;
  int64_t n_items, grain;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};

  void work(Scratch& scratch) {
    try {
      for (;;) {
        int64_t begin = next.fetch_add(grain);
        if (begin >= n_items) return;
        task(body, begin, begin + grain < n_items ? begin + grain : n_items, scratch);
      }
    } catch (...) {
      failed = true;
      next = n_items;
    }
  }
};

inline void relax_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

Scratch& own_scratch() {
  thread_local Scratch scratch;
  return scratch;
}

class Pool {
 public:
  const int pid = getpid();

  bool run(Job& job, int threads) {
    std::unique_lock<std::mutex> only(busy_, std::try_to_lock);
    if (!only) {  // somebody else's calculation has the pool: do it alone
      job.work(own_scratch());
      return !job.failed;
    }
    grow(threads - 1);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      open_ = threads - 1;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    job.work(own_scratch());
    {
      std::lock_guard<std::mutex> lock(mutex_);
      open_ = 0;  // who has not come yet need not come
      job_ = nullptr;
    }
    for (int spins = 0; inside_.load(std::memory_order_acquire) > 0; spins++) {
      if (spins < 4000) relax_core();
      else std::this_thread::yield();
    }
    return !job.failed;
  }

 private:
  void grow(int workers) {
    while (static_cast<int>(threads_.size()) < workers) {
      threads_.emplace_back([this] { serve(); });
      threads_.back().detach();  // they live as long as the process
    }
  }

  void serve() {
    uint64_t seen = 0;
    for (;;) {
      for (int spins = 0; spins < 4000 && generation_.load(std::memory_order_acquire) == seen; spins++) relax_core();
      Job* job = nullptr;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load() != seen; });
        seen = generation_.load();
        if (open_ > 0 && job_) {
          open_--;
          inside_.fetch_add(1);
          job = job_;
        }
      }
      if (!job) continue;
      job->work(own_scratch());
      inside_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::mutex busy_, mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> inside_{0};
  Job* job_ = nullptr;
  int open_ = 0;
  std::vector<std::thread> threads_;
};

Pool& pool() {
  static std::mutex guard;
  static Pool* current = new Pool;  // never destroyed: detached threads use it until the process ends
  std::lock_guard<std::mutex> lock(guard);
  if (current->pid != getpid()) current = new Pool;  // after a fork the threads are gone
  return *current;
}

}  // namespace

bool run_parallel(int64_t n_items, int64_t grain, int threads, Task task, void* body) {
  if (n_items <= 0) return true;
  Job job{task, body, n_items, grain < 1 ? 1 : grain};
  if (threads <= 1 || n_items <= job.grain) {
    job.work(own_scratch());
    return !job.failed;
  }
  return pool().run(job, threads);
}
