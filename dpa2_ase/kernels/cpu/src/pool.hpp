// A pool of threads of our own: it needs no OpenMP runtime, so none can disagree with PyTorch's.
//
// Work is handed out in small pieces, so a thread that loses its core to somebody else delays nobody. What a piece
// computes does not depend on the thread that computes it: results are the same for any number of threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

// Memory of one thread for the intermediates of one piece of work; grows as asked for and is kept.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }
  void begin(size_t bytes) {  // throws std::bad_alloc
    used_ = 0;
    bytes += 64 * 64;  // every `take` may lose 64 to alignment
    if (bytes <= size_) return;
    std::free(data_);
    size_ = 0;
    data_ = static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
    if (!data_) throw std::bad_alloc();
    size_ = bytes;
  }
  template <class T> T* take(int64_t count) {
    T* here = reinterpret_cast<T*>(data_ + used_);
    used_ += (sizeof(T) * count + 63) / 64 * 64;
    if (used_ > size_) throw std::bad_alloc();  // asked for too little in `begin`
    return here;
  }

 private:
  char* data_ = nullptr;
  size_t size_ = 0, used_ = 0;
};

using Task = void (*)(void* body, int64_t begin, int64_t end, Scratch& scratch);
bool run_parallel(int64_t n_items, int64_t grain, int threads, Task task, void* body);

// Call body(begin, end, scratch) for pieces of at most `grain` of 0..n_items; false if memory ran out.
template <class Body> bool parallel(int64_t n_items, int64_t grain, int threads, Body body) {
  return run_parallel(
      n_items, grain, threads,
      [](void* b, int64_t begin, int64_t end, Scratch& scratch) { (*static_cast<Body*>(b))(begin, end, scratch); },
      &body);
}
