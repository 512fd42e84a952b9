// Preloaded into a process under test: counts the file operations below one directory, and at the one that was asked
// for kills the process (before it, half way through a write, or after it) or lets it fail with an errno. Disarmed it
// only passes calls on. The code under test is not touched and does not know.
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <initializer_list>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

namespace {

enum Op : unsigned { kWrite = 1, kSync = 2, kRename = 4, kOpen = 8, kUnlink = 16, kMkdir = 32, kTruncate = 64 };
enum How { kCount, kKillBefore, kKillHalfway, kKillAfter, kFailOnce, kFailOn };

struct Plan {
    char root[1024], part[128], attic[1024];
    unsigned ops;
    long at, seen;
    int how, error, report;
    bool armed, failing;
} plan;

const char* name_of(unsigned op) {
    switch (op) {
        case kWrite: return "write";
        case kSync: return "fsync";
        case kRename: return "rename";
        case kOpen: return "open";
        case kUnlink: return "unlink";
        case kMkdir: return "mkdir";
        default: return "truncate";
    }
}

void die() {
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;) syscall(SYS_pause);
}

void say(const char* text, int length) {
    if (plan.report >= 0) syscall(SYS_write, plan.report, text, length);
}

// The path of an open file; a path relative to a folder's descriptor is resolved the same way.
bool path_of(int fd, char* out, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, out, size - 1);
    if (n < 0) return false;
    out[n] = 0;
    return true;
}

bool full_path(int folder, const char* path, char* out, size_t size) {
    if (path[0] == '/') return snprintf(out, size, "%s", path) > 0;
    char base[2048];
    if (folder == AT_FDCWD ? !getcwd(base, sizeof base) : !path_of(folder, base, sizeof base)) return false;
    return snprintf(out, size, "%s/%s", base, path) > 0;
}

struct Step {
    bool hit = false;   // the fault is due at this operation
    bool fail = false;  // it fails, without being done
};

// Counts one operation and does what is due before it.
Step enter(unsigned op, const char* path) {
    Step step;
    size_t length = strlen(plan.root);
    if (strncmp(path, plan.root, length) || !(plan.ops & op) || !strstr(path + length, plan.part)) return step;
    bool due = ++plan.seen == plan.at;
    if (plan.how == kCount || due) {
        char line[1200];
        say(line, snprintf(line, sizeof line, "%s %s\n", name_of(op), path + length));
    }
    step.hit = due && plan.how != kCount;
    if (due && (plan.how == kKillBefore || (plan.how == kKillHalfway && op != kWrite))) die();
    if (due && plan.how == kFailOn && op == kWrite) plan.failing = true;  // the first one is a short write
    else if (plan.failing || (due && plan.how >= kFailOnce)) {
        plan.failing = plan.how == kFailOn;
        step.fail = true;
        errno = plan.error;
    }
    return step;
}

void leave(const Step& step) {
    int saved = errno;
    if (step.hit && plan.how == kKillAfter) die();
    errno = saved;
}

// What has reached the disk: the harness undoes the rest to play a power cut.
void note(const char* what, int fd) {
    struct stat info;
    int saved = errno;
    if (!fstat(fd, &info) && (S_ISREG(info.st_mode) || S_ISDIR(info.st_mode))) {
        char line[96];
        const char* kind = S_ISDIR(info.st_mode) ? "folder" : what;
        say(line, snprintf(line, sizeof line, "=%s %lu %ld\n", kind, (unsigned long)info.st_ino, (long)info.st_size));
    }
    errno = saved;
}

unsigned long inode_of(const char* path, size_t length) {
    char part[4096];
    struct stat info;
    snprintf(part, sizeof part, "%.*s", (int)length, path);
    return lstat(part, &info) ? 0 : (unsigned long)info.st_ino;
}

// A change of names, for the harness to undo: the folder's inode and the name that went, those that came, and the
// inode of what it names, which is kept in the attic whatever happens to its names.
void journal(const char* from, const char* to, unsigned long inode) {
    if (!plan.attic[0] || strncmp(to ? to : from, plan.root, strlen(plan.root))) return;
    int saved = errno;
    char line[4096], link[2048];
    int length = snprintf(line, sizeof line, "@");
    for (const char* path : {from, to}) {
        const char* name = path ? strrchr(path, '/') + 1 : "";
        unsigned long folder = path ? inode_of(path, name - 1 - path) : 0;
        length += snprintf(line + length, sizeof line - length, "%lu\t%s\t", folder, name);
    }
    if (!from && snprintf(link, sizeof link, "%s/%lu", plan.attic, inode) > 0)
        syscall(SYS_linkat, AT_FDCWD, to, AT_FDCWD, link, 0);  // refused for folders, which need it not
    say(line, length + snprintf(line + length, sizeof line - length, "%lu\n", inode));
    errno = saved;
}

bool mine(int fd, char* path, size_t size) { return plan.armed && path_of(fd, path, size); }

int open_at(int folder, const char* path, int flags, unsigned mode) {
    char full[4096];
    bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
    if (!plan.armed || !writes || !full_path(folder, path, full, sizeof full))
        return syscall(SYS_openat, folder, path, flags, mode);
    Step step = enter(kOpen, full);
    if (step.fail) return -1;
    bool there = !(flags & O_CREAT) || inode_of(full, strlen(full));
    int fd = syscall(SYS_openat, folder, path, flags, mode);
    if (fd >= 0) note("open", fd);
    if (fd >= 0 && !there) journal(nullptr, full, inode_of(full, strlen(full)));
    leave(step);
    return fd;
}

// One operation on one path, which goes, comes, or takes the place of another.
template <class Real>
int on_path(unsigned op, int folder, const char* path, Real real, int from = AT_FDCWD, const char* old = nullptr) {
    char full[4096], before[4096];
    if (!plan.armed || !full_path(folder, path, full, sizeof full)) return real();
    Step step = enter(op, full);
    if (step.fail) return -1;
    const char* source = op == kUnlink ? full : old && full_path(from, old, before, sizeof before) ? before : nullptr;
    unsigned long inode = source ? inode_of(source, strlen(source)) : 0;
    int result = real();
    if (!result) journal(source, op == kUnlink ? nullptr : full, source ? inode : inode_of(full, strlen(full)));
    leave(step);
    return result;
}

// One operation on one open file.
template <class Real>
int on_file(unsigned op, int fd, Real real) {
    char path[4096];
    if (!mine(fd, path, sizeof path)) return real();
    Step step = enter(op, path);
    if (step.fail) return -1;
    int result = real();
    if (!result && op == kSync) {
        note("sync", fd);
        journal(nullptr, path, inode_of(path, strlen(path)));  // libraries that rename by no function of libc's
    }
    leave(step);
    return result;
}

template <class Real>
ssize_t on_write(int fd, size_t size, Real real) {
    char path[4096];
    if (!mine(fd, path, sizeof path)) return real(size);
    Step step = enter(kWrite, path);
    if (step.fail) return -1;
    if (step.hit && plan.how == kKillHalfway) {
        real(size / 2);
        die();
    }
    ssize_t done = real(step.hit && plan.how == kFailOn && size > 1 ? size / 2 : size);
    leave(step);
    return done;
}

unsigned mode_of(int flags, va_list list) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(list, unsigned) : 0; }

}  // namespace

extern "C" {

// From now on the `at`-th operation among `ops` on a path below `root` that contains `part` is struck; what happens is
// written to the descriptor `report`. With `attic`, a folder on the same disk, so are all changes of names.
void faults_arm(const char* root, const char* part, unsigned ops, long at, int how, int error, int report,
                const char* attic) {
    plan = {};
    snprintf(plan.root, sizeof plan.root, "%s", root);
    snprintf(plan.part, sizeof plan.part, "%s", part);
    snprintf(plan.attic, sizeof plan.attic, "%s", attic);
    plan.ops = ops, plan.at = at, plan.how = how, plan.error = error, plan.report = report;
    plan.armed = true;
}

#define OPEN(name, before, folder)                  \
    int name(before const char* path, int flags, ...) { \
        va_list list;                               \
        va_start(list, flags);                      \
        unsigned mode = mode_of(flags, list);       \
        va_end(list);                               \
        return open_at(folder, path, flags, mode);  \
    }
#define FOLDER int folder,
OPEN(open, , AT_FDCWD)
OPEN(open64, , AT_FDCWD)
OPEN(openat, FOLDER, folder)
OPEN(openat64, FOLDER, folder)
int creat(const char* path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char* path, mode_t mode) { return creat(path, mode); }

ssize_t write(int fd, const void* data, size_t size) {
    return on_write(fd, size, [=](size_t n) { return (ssize_t)syscall(SYS_write, fd, data, n); });
}
ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
    return on_write(fd, size, [=](size_t n) { return (ssize_t)syscall(SYS_pwrite64, fd, data, n, offset); });
}
ssize_t pwrite64(int fd, const void* data, size_t size, off_t offset) { return pwrite(fd, data, size, offset); }
ssize_t writev(int fd, const iovec* parts, int count) {
    size_t size = 0;
    for (int i = 0; i < count; ++i) size += parts[i].iov_len;
    return on_write(fd, size, [=](size_t n) {
        if (n == size) return (ssize_t)syscall(SYS_writev, fd, parts, count);
        size_t first = parts[0].iov_len;
        return (ssize_t)syscall(SYS_write, fd, parts[0].iov_base, n < first ? n : first);
    });
}

int fsync(int fd) { return on_file(kSync, fd, [=] { return (int)syscall(SYS_fsync, fd); }); }
int fdatasync(int fd) { return on_file(kSync, fd, [=] { return (int)syscall(SYS_fdatasync, fd); }); }
int ftruncate(int fd, off_t size) {
  return on_file(kTruncate, fd, [=] { return (int)syscall(SYS_ftruncate, fd, size); });
}
int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

int renameat(int from, const char* old, int to, const char* path) {
    return on_path(kRename, to, path, [=] { return (int)syscall(SYS_renameat2, from, old, to, path, 0); }, from, old);
}
int rename(const char* old, const char* path) { return renameat(AT_FDCWD, old, AT_FDCWD, path); }
int unlinkat(int folder, const char* path, int flags) {
    return on_path(kUnlink, folder, path, [=] { return (int)syscall(SYS_unlinkat, folder, path, flags); });
}
int unlink(const char* path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char* path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int mkdirat(int folder, const char* path, mode_t mode) {
    return on_path(kMkdir, folder, path, [=] { return (int)syscall(SYS_mkdirat, folder, path, mode); });
}
int mkdir(const char* path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

}  // extern "C"
