/* LD_PRELOAD: counts the file calls below a directory; at the n-th, kills the process or fails.
 *
 * LanceDB does its IO in Rust, on threads of its own, but through the C library like everybody;
 * except for one renameat (of tempfile, by rustix), which a seccomp filter can make fail.
 * Nothing happens until `faults_arm` is called, which a forked child does.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { READ = 1, OPEN = 2, CREATE = 4, WRITE = 8, NAME = 16, SYNC = 32, LOOK = 64 };
enum { COUNT, KILL, FAIL, FAIL_ON, TORN, NO_RENAMEAT };

static char below[4096];
static int armed, action, number, kinds;
static long at;
static atomic_long calls;
static unsigned char ours[1 << 16]; /* file descriptors below the directory */

void faults_arm(const char *directory, int what, int kinds_, int errno_, long n) {
  strncpy(below, directory, sizeof below - 1);
  action = what, kinds = kinds_, number = errno_, at = n, armed = 1;
}
long faults_calls(void) { armed = 0; return calls; }

/* From now on every renameat of every thread fails. */
static void refuse_renameat(void) {
  struct sock_filter rules[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | number),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof rules / sizeof *rules, rules};
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program)) abort();
}

/* 0: go on; -1: fail with errno; 1: write half, then die. */
static int fault(int kind) {
  if (!armed || !(kind & kinds)) return 0;
  long n = ++calls;
  if (action == COUNT || n < at || (n > at && action != FAIL_ON)) return 0;
  if (action == KILL) kill(getpid(), SIGKILL);
  if (action == TORN) return 1;
  if (action == NO_RENAMEAT) return refuse_renameat(), 0;
  errno = number;
  return -1;
}
static int inside(const char *path) { return armed && !strncmp(path, below, strlen(below)); }
static int is_ours(int fd) { return armed && fd >= 0 && fd < (int)sizeof ours && ours[fd]; }
static void note(int fd, int mine) {
  if (fd >= 0 && fd < (int)sizeof ours) ours[fd] = mine;
}
#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define OPENING(name)                                                      \
  int name(const char *path, int flags, ...) {                             \
    va_list rest; va_start(rest, flags);                                   \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                                          \
    REAL(name);                                                            \
    int mine = inside(path);                                               \
    int kind = flags & (O_CREAT | O_WRONLY | O_RDWR) ? CREATE : OPEN;      \
    if (mine && fault(kind)) return -1;                                    \
    int fd = real(path, flags, mode);                                      \
    note(fd, mine);                                                        \
    return fd;                                                             \
  }
OPENING(open)
OPENING(open64)
#define OPENING_AT(name)                                                   \
  int name(int dir, const char *path, int flags, ...) {                    \
    va_list rest; va_start(rest, flags);                                   \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                                          \
    REAL(name);                                                            \
    int mine = inside(path) || (path[0] != '/' && is_ours(dir));           \
    int kind = flags & (O_CREAT | O_WRONLY | O_RDWR) ? CREATE : OPEN;      \
    if (mine && fault(kind)) return -1;                                    \
    int fd = real(dir, path, flags, mode);                                 \
    note(fd, mine);                                                        \
    return fd;                                                             \
  }
OPENING_AT(openat)
OPENING_AT(openat64)

#define ON_FD(type, name, kind, declared, given)                           \
  type name declared {                                                     \
    REAL(name);                                                            \
    return is_ours(fd) && fault(kind) ? -1 : real given;                   \
  }
ON_FD(int, fsync, SYNC, (int fd), (fd))
ON_FD(int, fdatasync, SYNC, (int fd), (fd))
ON_FD(int, ftruncate64, WRITE, (int fd, off64_t size), (fd, size))
ON_FD(ssize_t, read, READ, (int fd, void *data, size_t size), (fd, data, size))
ON_FD(ssize_t, pread64, READ, (int fd, void *data, size_t size, off64_t from), (fd, data, size, from))

#define WRITING(name, declared, given, half)                               \
  ssize_t name declared {                                                  \
    REAL(name);                                                            \
    int found = is_ours(fd) ? fault(WRITE) : 0;                            \
    if (found > 0) { real half; kill(getpid(), SIGKILL); }                 \
    return found < 0 ? -1 : real given;                                    \
  }
WRITING(write, (int fd, const void *data, size_t size), (fd, data, size), (fd, data, size / 2))
WRITING(pwrite64, (int fd, const void *data, size_t size, off64_t to), (fd, data, size, to),
        (fd, data, size / 2, to))

#define ON_PATH(name, kind, declared, given)                               \
  int name declared {                                                      \
    REAL(name);                                                            \
    return inside(path) && fault(kind) ? -1 : real given;                  \
  }
ON_PATH(mkdir, CREATE, (const char *path, mode_t mode), (path, mode))
ON_PATH(rmdir, NAME, (const char *path), (path))
ON_PATH(unlink, NAME, (const char *path), (path))
ON_PATH(rename, NAME, (const char *path, const char *to), (path, to))
ON_PATH(linkat, NAME, (int a, const char *path, int b, const char *to, int flags),
        (a, path, b, to, flags))
ON_PATH(stat64, LOOK, (const char *path, struct stat64 *found), (path, found))
ON_PATH(lstat64, LOOK, (const char *path, struct stat64 *found), (path, found))
ON_PATH(fstatat64, LOOK, (int dir, const char *path, struct stat64 *found, int flags),
        (dir, path, found, flags))
ON_PATH(statx, LOOK,
        (int dir, const char *path, int flags, unsigned mask, struct statx *found),
        (dir, path, flags, mask, found))
int unlinkat(int dir, const char *path, int flags) { /* shutil.rmtree names files so */
  REAL(unlinkat);
  int mine = inside(path) || (path[0] != '/' && is_ours(dir));
  return mine && fault(NAME) ? -1 : real(dir, path, flags);
}
DIR *opendir(const char *path) {
  REAL(opendir);
  return inside(path) && fault(OPEN) ? NULL : real(path);
}
int close(int fd) {
  REAL(close);
  note(fd, 0);
  return real(fd);
}
