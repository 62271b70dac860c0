// Memory of a whole pass: one block, whose layout follows from the steps that take from it.
//
// Without memory the same steps measure how much they need. So the way back finds what the way there kept.
#pragma once

#include <cstdint>
#include <cstring>

struct Arena {
  char* data;  // null: to be measured
  int64_t used;

  template <class T> T* take(int64_t count) {
    const int64_t at = used;
    used += (sizeof(T) * count + 63) / 64 * 64;
    return data ? reinterpret_cast<T*>(data + at) : nullptr;
  }
  template <class T> T* zeros(int64_t count) {
    T* here = take<T>(count);
    if (here) std::memset(here, 0, sizeof(T) * count);
    return here;
  }
};
