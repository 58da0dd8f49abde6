/* What a disk does to SQLite, on demand: it refuses, writes half, is slow, or the process dies there.

   Preloaded, see shim.py. It stands in front of the calls by which SQLite changes files, counts those
   on files whose name has ".db" in it (the database, its -wal, -shm and -journal; not the owners'
   files), and lets all others pass. Nothing happens until it is armed.

   While recording, each change that the kernel took is written to a descriptor with its bytes, and
   each fsync, in the order in which they took effect: the calls then go one by one. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { ANY, WRITE, FSYNC, TRUNCATE, UNLINK, KINDS };
/* Above 0: the errno with which the call fails. */
enum mode { SHORT = -1, KILL = -2, KILL_AFTER = -3 };

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static long counted[KINDS], fired, at;
static int armed_kind, armed_mode, armed_sticky, rest_fails;
static long slow_for[KINDS]; /* microseconds */
static int log_to = -1;

/* -- for Python ------------------------------------------------------------------------------ */

void io_arm(long n, int kind, int mode, int sticky) {
  pthread_mutex_lock(&guard);
  memset(counted, 0, sizeof counted);
  fired = rest_fails = 0;
  at = n, armed_kind = kind, armed_mode = mode, armed_sticky = sticky;
  pthread_mutex_unlock(&guard);
}

long io_calls(int kind) { return __atomic_load_n(&counted[kind], __ATOMIC_SEQ_CST); }

long io_fired(void) { return __atomic_load_n(&fired, __ATOMIC_SEQ_CST); }

void io_slow(int kind, long microseconds) { slow_for[kind] = microseconds; }

void io_record(int descriptor) {
  pthread_mutex_lock(&guard);
  log_to = descriptor;
  pthread_mutex_unlock(&guard);
}

struct head { uint32_t op, path; int64_t offset, size; };

static void note(char op, const char *path, off64_t offset, const void *bytes, size_t size) {
  struct head head = {(uint32_t)op, (uint32_t)strlen(path), offset, (int64_t)size};
  struct iovec parts[] = {
      {&head, sizeof head}, {(void *)path, head.path}, {(void *)bytes, bytes ? size : 0}};
  size_t whole = sizeof head + head.path + parts[2].iov_len;
  if (log_to >= 0 && writev(log_to, parts, 3) != (ssize_t)whole)
    kill(getpid(), SIGABRT); /* a record with a hole in it proves nothing */
}

void io_mark(const char *bytes, size_t size) {
  pthread_mutex_lock(&guard);
  note('m', "", 0, bytes, size);
  pthread_mutex_unlock(&guard);
}

/* -- what a call meets ------------------------------------------------------------------------ */

static void die(void) { syscall(SYS_kill, (pid_t)syscall(SYS_getpid), SIGKILL); }

static int is_ours(const char *path) {
  const char *name = strrchr(path, '/');
  return strstr(name ? name : path, ".db") != NULL;
}

static const char *path_of(int descriptor, char *path, size_t room) {
  char link[32];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t size = readlink(link, path, room - 1);
  path[size < 0 ? 0 : size] = 0;
  return path;
}

/* Count a call; return 0 when it may go on, or the mode that it meets. Holds the guard. */
static int meets(enum kind kind) {
  counted[ANY]++, counted[kind]++;
  if (rest_fails && kind == WRITE) { /* what follows upon a short write, on a disk that is full */
    rest_fails = armed_sticky;
    fired++;
    return ENOSPC;
  }
  if (!at || (armed_kind != ANY && armed_kind != (int)kind)) return 0;
  long n = counted[armed_kind];
  if (n < at || (n > at && !armed_sticky)) return 0;
  if (armed_mode == SHORT) {
    if (kind != WRITE) return 0;
    rest_fails = 1;
  }
  fired++;
  return armed_mode;
}

/* Everything between counting and the record is one step. `real` gives the result of the call. */
#define CALL(type, kind, op, path, offset, bytes, size, real, half)                              \
  do {                                                                                           \
    pthread_mutex_lock(&guard);                                                                  \
    int mode = meets(kind);                                                                      \
    if (mode == KILL) die();                                                                     \
    long slow = slow_for[kind];                                                                  \
    int alone = log_to >= 0 || mode;                                                             \
    if (!alone) pthread_mutex_unlock(&guard);                                                    \
    if (slow) nanosleep(&(struct timespec){slow / 1000000, slow % 1000000 * 1000}, NULL);        \
    type done = mode > 0 ? (errno = mode, -1) : mode == SHORT ? (half) : (real);                 \
    int error = errno;                                                                           \
    if (mode == KILL_AFTER) die();                                                               \
    if (alone) {                                                                                 \
      if (log_to >= 0 && done >= 0) note(op, path, offset, bytes, op == 'w' ? (size_t)done : size); \
      if (log_to >= 0 && done < 0 && op == 's') note('f', path, 0, NULL, 0);                     \
      pthread_mutex_unlock(&guard);                                                              \
    }                                                                                            \
    errno = error;                                                                               \
    return done;                                                                                 \
  } while (0)

#define REAL(name, type, ...)                                                                    \
  static type (*real)(__VA_ARGS__);                                                              \
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, name);                                           \
  char room[4096];                                                                               \
  (void)room

#define PWRITE(name)                                                                             \
  ssize_t name(int fd, const void *bytes, size_t size, off64_t offset) {                         \
    REAL(#name, ssize_t, int, const void *, size_t, off64_t);                                    \
    if (!is_ours(path_of(fd, room, sizeof room))) return real(fd, bytes, size, offset);          \
    CALL(ssize_t, WRITE, 'w', room, offset, bytes, size, real(fd, bytes, size, offset),          \
         real(fd, bytes, size / 2, offset));                                                     \
  }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t write(int fd, const void *bytes, size_t size) {
  REAL("write", ssize_t, int, const void *, size_t);
  if (fd < 3 || fd == log_to || !is_ours(path_of(fd, room, sizeof room)))
    return real(fd, bytes, size);
  off64_t offset = lseek(fd, 0, SEEK_CUR);
  CALL(ssize_t, WRITE, 'w', room, offset, bytes, size, real(fd, bytes, size),
       real(fd, bytes, size / 2));
}

#define FTRUNCATE(name)                                                                          \
  int name(int fd, off64_t size) {                                                               \
    REAL(#name, int, int, off64_t);                                                              \
    if (!is_ours(path_of(fd, room, sizeof room))) return real(fd, size);                         \
    CALL(int, TRUNCATE, 't', room, size, NULL, 0, real(fd, size), -1);                           \
  }
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

#define SYNC(name)                                                                               \
  int name(int fd) {                                                                             \
    REAL(#name, int, int);                                                                       \
    if (!is_ours(path_of(fd, room, sizeof room))) return real(fd);                               \
    CALL(int, FSYNC, 's', room, 0, NULL, 0, real(fd), -1);                                       \
  }
SYNC(fsync)
SYNC(fdatasync)

int unlink(const char *path) {
  REAL("unlink", int, const char *);
  if (!is_ours(path)) return real(path);
  CALL(int, UNLINK, 'u', path, 0, NULL, 0, real(path), -1);
}
