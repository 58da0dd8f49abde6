/* A clock on the wall that is set, and a machine that slept, on demand: see clock_shim.py.

   Preloaded. It adds to what the kernel says of the time since 1970, and of the time since the boot,
   what stands in a small file that is mapped into memory: so one store in it moves the clocks of all
   processes at once, or those of one. Monotonic time is left alone, as a sleeping machine leaves it;
   the file systems' own times are the kernel's. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Nanoseconds. */
struct shift { int64_t wall, boot; };
static struct shift none, *shift = &none;

/* Follow the file at *path* from now on; 0 when it cannot be mapped. */
int clock_follow(const char *path) {
  int file = open(path, O_RDONLY | O_CLOEXEC);
  void *mapped;
  if (file < 0) return 0;
  mapped = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (mapped == MAP_FAILED) return 0;
  __atomic_store_n(&shift, (struct shift *)mapped, __ATOMIC_SEQ_CST);
  return 1;
}

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("CAMPAIGN_CLOCK");
  if (path && !clock_follow(path)) _exit(97); /* a process with the right time would prove nothing */
}

static void add(struct timespec *at, int64_t more) {
  int64_t whole = at->tv_sec * INT64_C(1000000000) + at->tv_nsec + more;
  at->tv_sec = whole / 1000000000;
  at->tv_nsec = whole % 1000000000;
}

int clock_gettime(clockid_t which, struct timespec *at) {
  static int (*real)(clockid_t, struct timespec *);
  int failed;
  if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  failed = real(which, at);
  if (failed) return failed;
  if (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE || which == CLOCK_TAI)
    add(at, __atomic_load_n(&shift->wall, __ATOMIC_SEQ_CST));
  if (which == CLOCK_BOOTTIME) add(at, __atomic_load_n(&shift->boot, __ATOMIC_SEQ_CST));
  return 0;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
  struct timespec now;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *at) {
  struct timespec now;
  if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
