#include "cluster/claim.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/stop.h"

enum { IDENTITY = 512, POLL_MS = 100, HANDOVER_SECONDS = 10, ATTEMPTS = 100 };

struct ks_claim {
    char *output, *folder, *path; /* path: of the claim that is held; NULL: none */
    char identity[IDENTITY];      /* what stands in the file */
    ks_claim_times times;
    double skew; /* of the file system's clock against this machine's */
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool renewing, ending;
    atomic_bool lost;
};

/* What a claim's file says of its holder. */
typedef struct holder {
    char text[IDENTITY]; /* as it is in the file */
    char host[256], boot[64];
    long pid;
    unsigned long long space, started; /* of processes; the process' start in clock ticks */
    double changed;                    /* the file's time */
} holder;

typedef enum state {
    STATE_GONE,    /* there is no such file */
    STATE_VOID,    /* its process is dead, or has not renewed it for long */
    STATE_ALIVE,   /* its process lives on this machine */
    STATE_UNKNOWN, /* elsewhere, and renewed not long ago */
} state;

/* --- this process --- */

static void read_word(const char *path, char *out, int size)
{
    FILE *f = fopen(path, "r");
    out[0] = 0;
    if (f && fgets(out, size, f))
        out[strcspn(out, " \n")] = 0;
    if (f)
        fclose(f);
}

/* When a process was started, in clock ticks since boot: field 22 of its stat; 0: not known. */
static unsigned long long start_of(long pid)
{
    char path[64], line[1024] = "";
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    FILE *f = fopen(path, "r");
    if (f && !fgets(line, sizeof line, f))
        line[0] = 0;
    if (f)
        fclose(f);
    char *at = strrchr(line, ')'); /* ends the name, which may hold blanks */
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    return at ? strtoull(at, NULL, 10) : 0;
}

static void describe_self(holder *h)
{
    struct stat space = {0};
    *h = (holder){.pid = (long)getpid(), .started = start_of((long)getpid())};
    if (gethostname(h->host, sizeof h->host - 1))
        strcpy(h->host, "?");
    h->host[strcspn(h->host, " \n")] = 0;
    read_word("/proc/sys/kernel/random/boot_id", h->boot, sizeof h->boot);
    if (!stat("/proc/self/ns/pid", &space))
        h->space = space.st_ino;
    snprintf(h->text, sizeof h->text, "host=%s boot=%s space=%llu pid=%ld started=%llu\n", h->host,
             h->boot[0] ? h->boot : "?", h->space, h->pid, h->started);
}

/* --- other holders --- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The file of a claim: 1, or 0 when there is none. A file that cannot be read, or is not written
 * yet, has a holder without a name. */
static int read_holder(const char *path, holder *h)
{
    struct stat status;
    *h = (holder){.pid = 0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd < 0 || fstat(fd, &status))
        status = (struct stat){.st_mtime = time(NULL)};
    ssize_t n = fd < 0 ? 0 : read(fd, h->text, sizeof h->text - 1);
    if (fd >= 0)
        close(fd);
    h->text[n > 0 ? n : 0] = 0;
    h->changed = (double)status.st_mtim.tv_sec + 1e-9 * (double)status.st_mtim.tv_nsec;
    if (sscanf(h->text, "host=%255s boot=%63s space=%llu pid=%ld started=%llu", h->host, h->boot,
               &h->space, &h->pid, &h->started) != 5)
        strcpy(h->host, "?");
    return 1;
}

/* Whether this process can see the holder's, were it alive. */
static bool is_visible(const holder *h)
{
    holder self;
    describe_self(&self);
    return self.boot[0] && self.space && !strcmp(self.boot, h->boot) && self.space == h->space;
}

static bool lives(const holder *h)
{
    if (h->pid <= 0 || (kill((pid_t)h->pid, 0) && errno == ESRCH))
        return false;
    unsigned long long started = start_of(h->pid);
    return !started || !h->started || started == h->started;
}

static state judge(const ks_claim *c, const char *path, holder *h)
{
    if (!read_holder(path, h))
        return STATE_GONE;
    if (is_visible(h))
        return lives(h) ? STATE_ALIVE : STATE_VOID;
    return now() + c->skew - h->changed > c->times.stale ? STATE_VOID : STATE_UNKNOWN;
}

static void rest(void)
{
    nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
}

/* Waits until a claim is gone or void, and gives its last state: ALIVE when it surely is in use, or
 * when a signal ended the waiting. forever: does not give up on one that is in use. */
static state wait_for(const ks_claim *c, const char *path, bool forever, holder *h)
{
    double start = ks_seconds(), first = 0;
    bool told = false;
    for (;; rest()) {
        state s = judge(c, path, h);
        if (s == STATE_GONE || s == STATE_VOID)
            return s;
        if (ks_stop_requested())
            return STATE_ALIVE;
        first = first != 0 ? first : h->changed;
        bool renewed = h->changed > first;
        if (ks_seconds() - start < c->times.patience)
            continue;
        if (!forever && (s == STATE_ALIVE || renewed))
            return STATE_ALIVE;
        if (!told && forever)
            ks_log_info("%s is held by process %ld on %s: waiting for it", path, h->pid, h->host);
        else if (!told)
            ks_log_info("%s was left by process %ld on %s: waiting up to %.0f s for a sign that it "
                        "lives", path, h->pid, h->host, c->times.stale);
        told = true;
    }
}

static int refuse(const ks_claim *c, const holder *h, ks_error *err)
{
    return ks_error_set(err, "%s is being written by another run (process %ld on %s): wait for it, "
                        "stop it, or share the sweep between both with --shard", c->output, h->pid,
                        h->host);
}

/* --- one claim --- */

static int write_identity(int fd, const char *text)
{
    size_t size = strlen(text);
    int rc = write(fd, text, size) == (ssize_t)size ? 0 : -1;
    return close(fd) || rc ? -1 : 0;
}

static bool is_own(const ks_claim *c, const char *path)
{
    holder h;
    return read_holder(path, &h) && !strcmp(h.text, c->identity);
}

/* Replaces a void claim. Of several who do this at once the last one has it, which all of them see
 * a moment later. 1: it is ours. */
static int take_over(const ks_claim *c, const char *path, ks_error *err)
{
    holder h;
    char *mine = ks_format("%s.%ld", path, (long)getpid());
    int fd = open(mine, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666), rc = 0;
    if (fd < 0 || write_identity(fd, c->identity))
        rc = ks_error_set(err, "%s: cannot write: %s", mine, strerror(errno));
    else if (judge(c, path, &h) == STATE_VOID && !rename(mine, path)) {
        for (int i = 0; i < 10; i++)
            rest();
        rc = is_own(c, path);
        if (rc)
            ks_log_info("%s was left by process %ld on %s, which is gone: taken over", path, h.pid,
                        h.host);
    }
    unlink(mine);
    free(mine);
    return rc;
}

/* 1: the file is ours now; 0: somebody holds it (h) and may be judged; -1 failed. */
static int try_claim(const ks_claim *c, const char *path, ks_error *err)
{
    for (int i = 0; i < ATTEMPTS; i++) {
        if (mkdir(c->folder, 0777) && errno != EEXIST)
            return ks_error_set(err, "%s: cannot make the folder: %s", c->folder, strerror(errno));
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0 && write_identity(fd, c->identity)) {
            ks_error_set(err, "%s: cannot write: %s", path, strerror(errno));
            unlink(path);
            return -1;
        }
        if (fd >= 0)
            return 1;
        if (errno == EEXIST)
            return 0;
        if (errno != ENOENT) /* the folder: the last run that wrote there removed it just now */
            break;
    }
    return ks_error_set(err, "%s: cannot make the file: %s", path, strerror(errno));
}

/* Has the claim at path, or fails with who holds it. */
static int take(ks_claim *c, char *path, ks_error *err)
{
    holder h;
    int got;
    while ((got = try_claim(c, path, err)) == 0) {
        state s = wait_for(c, path, false, &h);
        if (s == STATE_ALIVE)
            return refuse(c, &h, err);
        got = s == STATE_VOID ? take_over(c, path, err) : 0;
        if (got)
            break;
    }
    if (got < 0)
        return -1;
    c->path = path;
    return 0;
}

/* --- renewing --- */

static void *renew(void *self)
{
    ks_claim *c = self;
    pthread_mutex_lock(&c->mutex);
    while (!c->ending) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += (time_t)c->times.renew;
        until.tv_nsec += (long)(1e9 * (c->times.renew - (double)(time_t)c->times.renew));
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        if (pthread_cond_timedwait(&c->wake, &c->mutex, &until) != ETIMEDOUT)
            continue;
        holder h;
        int found = read_holder(c->path, &h);
        if (!found || (h.pid && strcmp(h.text, c->identity)))
            c->lost = true;
        else
            utimensat(AT_FDCWD, c->path, NULL, 0);
    }
    pthread_mutex_unlock(&c->mutex);
    return NULL;
}

/* The thread takes no signals: those are for the run. */
static int start_renewing(ks_claim *c, ks_error *err)
{
    sigset_t all, before;
    c->ending = false;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&c->thread, NULL, renew, c);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    c->renewing = !failed;
    return failed ? ks_error_set(err, "cannot start a thread: %s", strerror(failed)) : 0;
}

static void stop_renewing(ks_claim *c)
{
    if (!c->renewing)
        return;
    pthread_mutex_lock(&c->mutex);
    c->ending = true;
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->mutex);
    pthread_join(c->thread, NULL);
    c->renewing = false;
}

/* Gives the claim back that is held. */
static void hand_back(ks_claim *c)
{
    stop_renewing(c);
    if (c->path && !c->lost && is_own(c, c->path))
        unlink(c->path);
    free(c->path);
    c->path = NULL;
}

/* --- several claims --- */

static bool is_claim(const char *name)
{
    size_t n = strlen(name);
    return n > 5 && !strcmp(name + n - 5, ".lock") && strcmp(name, "collect.lock");
}

/* The path of a claim of another run on the whole or a part that is not void; NULL: there is none.
 * Void ones are removed. wait: gives others time to prove void. */
static char *find_other(const ks_claim *c, bool wait, holder *h)
{
    char *found = NULL;
    DIR *d = opendir(c->folder);
    for (struct dirent *e; d && !found && (e = readdir(d));) {
        char *path = ks_format("%s/%s", c->folder, e->d_name);
        bool other = is_claim(e->d_name) && strcmp(path, c->path);
        state s = !other ? STATE_GONE : wait ? wait_for(c, path, false, h) : judge(c, path, h);
        if (s == STATE_VOID)
            unlink(path);
        if (s == STATE_ALIVE || s == STATE_UNKNOWN)
            found = path;
        else
            free(path);
    }
    if (d)
        closedir(d);
    return found;
}

/* How far the clock of the file system is ahead of this machine's. */
static void measure_skew(ks_claim *c)
{
    struct stat status;
    if (!stat(c->path, &status))
        c->skew = (double)status.st_mtim.tv_sec + 1e-9 * (double)status.st_mtim.tv_nsec - now();
}

/* The whole is claimed alone; a part beside other parts. Nobody begins while an output is being
 * collected. Each of two that begin at once has made its file before it looks for the other's. */
static int check_others(ks_claim *c, bool whole, ks_error *err)
{
    holder h;
    char *path = ks_format("%s/%s", c->folder, "collect.lock");
    if (wait_for(c, path, true, &h) == STATE_VOID)
        unlink(path);
    free(path);
    path = whole ? find_other(c, true, &h) : ks_format("%s/%s", c->folder, "run.lock");
    state s = !path ? STATE_GONE : whole ? STATE_ALIVE : wait_for(c, path, false, &h);
    if (s == STATE_VOID)
        unlink(path);
    free(path);
    return s == STATE_ALIVE ? refuse(c, &h, err) : 0;
}

static ks_claim *new_claim(const char *output, const ks_claim_times *times)
{
    static atomic_int count;
    holder self;
    pthread_condattr_t monotonic;
    ks_claim *c = ks_calloc(1, sizeof *c);
    c->output = ks_strdup(output);
    c->folder = ks_format("%s.d", output);
    c->times = times ? *times : (ks_claim_times){.renew = 10, .stale = 120, .patience = 5};
    describe_self(&self);
    snprintf(c->identity, sizeof c->identity, "%.*s claim=%d\n", (int)strcspn(self.text, "\n"),
             self.text, atomic_fetch_add(&count, 1));
    pthread_mutex_init(&c->mutex, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&c->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return c;
}

ks_claim *ks_claim_open(const char *output, int part, int parts, const ks_claim_times *times,
                        ks_error *err)
{
    ks_claim *c = new_claim(output, times);
    char *path = parts ? ks_format("%s/part-%d-of-%d.lock", c->folder, part, parts)
                       : ks_format("%s/run.lock", c->folder);
    int rc = take(c, path, err);
    if (rc) {
        free(path);
    } else {
        measure_skew(c);
        rc = start_renewing(c, err) || check_others(c, parts == 0, err) ? -1 : 0;
    }
    if (!rc)
        return c;
    ks_claim_close(c);
    return NULL;
}

int ks_claim_check(const ks_claim *c, ks_error *err)
{
    if (!c->lost)
        return 0;
    return ks_error_set(err, "%s: another run has taken this one's place, because it gave no sign "
                        "of life for more than %.0f s", c->output, c->times.stale);
}

static char *name_holder(const holder *h)
{
    return ks_format("process %ld on %s", h->pid, h->host);
}

/* Has the claim of collecting: 1; 0 when another holds it for long enough to be really at it. */
static int take_collecting(ks_claim *c, const char *path, char **who, ks_error *err)
{
    holder h;
    double start = ks_seconds();
    for (int got;; rest()) {
        got = try_claim(c, path, err);
        if (got)
            return got;
        state s = judge(c, path, &h);
        if (s == STATE_VOID && (got = take_over(c, path, err)))
            return got;
        if ((s == STATE_ALIVE || s == STATE_UNKNOWN) && ks_seconds() - start > HANDOVER_SECONDS) {
            *who = name_holder(&h);
            return 0;
        }
    }
}

/* Whoever is the last to hand its part back finds no other claim, and collects. Holding the claim
 * of collecting while others still write would hide it from them, so it is given up at once, and
 * they are looked for again after that. */
int ks_claim_collect(ks_claim *c, char **who, ks_error *err)
{
    holder h;
    *who = NULL;
    if (ks_claim_check(c, err))
        return -1;
    hand_back(c);
    for (;;) {
        char *path = ks_format("%s/collect.lock", c->folder), *other;
        int got = take_collecting(c, path, who, err);
        if (got <= 0) {
            free(path);
            return got;
        }
        c->path = path;
        other = find_other(c, false, &h);
        if (!other)
            return start_renewing(c, err) ? -1 : 1;
        free(other);
        unlink(c->path);
        other = find_other(c, false, &h);
        free(c->path);
        c->path = NULL;
        if (other) {
            free(other);
            *who = name_holder(&h);
            return 0;
        }
    }
}

void ks_claim_close(ks_claim *c)
{
    if (!c)
        return;
    hand_back(c);
    rmdir(c->folder);
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->mutex);
    free(c->output);
    free(c->folder);
    free(c);
}
