/* Who writes an output: claims on the whole and on parts, void ones, and who collects. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "cluster/claim.h"
#include "cluster/layout.h"

static const ks_claim_times quick = {.renew = 0.05, .stale = 1.5, .patience = 0.2};

static char *folder, *out;

static int make_folder(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    folder = ks_format("%s/ksweep-claim-XXXXXX", tmp ? tmp : P_tmpdir);
    out = mkdtemp(folder) ? ks_format("%s/o.h5", folder) : NULL;
    return out ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    const char *names[] = {"run.lock", "part-0-of-2.lock", "collect.lock", "layout",
                           "shard-0000.h5"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = ks_format("%s.d/%s", out, names[i]);
        unlink(path);
        free(path);
    }
    char *dir = ks_format("%s.d", out);
    rmdir(dir);
    free(dir);
    int rc = rmdir(folder);
    free(folder);
    free(out);
    return rc;
}

static ks_claim *claim(int part, int parts)
{
    ks_error err = KS_ERROR_NONE;
    ks_claim *c = ks_claim_open(out, part, parts, &quick, &err);
    if (!c)
        fail_msg("%s", err.text);
    return c;
}

static void is_refused(int part, int parts)
{
    ks_error err = KS_ERROR_NONE;
    assert_null(ks_claim_open(out, part, parts, &quick, &err));
    char *wanted = ks_format("%s is being written by another run (process %ld on ", out,
                             (long)getpid());
    assert_int_equal(strncmp(err.text, wanted, strlen(wanted)), 0);
    free(wanted);
}

static bool exists(const char *name)
{
    struct stat status;
    char *path = ks_format("%s.d/%s", out, name);
    bool there = !stat(path, &status);
    free(path);
    return there;
}

static void write_file(const char *name, const char *text, double age)
{
    char *path = ks_format("%s.d/%s", out, name), *dir = ks_format("%s.d", out);
    mkdir(dir, 0777);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    struct timespec t[2];
    clock_gettime(CLOCK_REALTIME, &t[0]);
    t[0].tv_sec -= (time_t)age;
    t[1] = t[0];
    futimens(fd, t);
    close(fd);
    free(dir);
    free(path);
}

static void the_whole_is_claimed_alone(void **state)
{
    (void)state;
    ks_claim *c = claim(0, 0);
    is_refused(0, 0);
    is_refused(0, 2);
    ks_claim_close(c);
    assert_false(exists("."));
    c = claim(0, 0);
    ks_claim_close(c);
}

static void parts_are_claimed_side_by_side(void **state)
{
    (void)state;
    ks_claim *a = claim(0, 2), *b = claim(1, 2);
    is_refused(0, 2);
    is_refused(0, 0);
    ks_claim_close(a);
    is_refused(0, 0);
    ks_claim_close(b);
    ks_claim_close(claim(0, 0));
    assert_false(exists("."));
}

static void the_folder_stays_when_something_is_in_it(void **state)
{
    (void)state;
    ks_claim *c = claim(0, 0);
    write_file("shard-0000.h5", "", 0);
    ks_claim_close(c);
    assert_true(exists("shard-0000.h5"));
    assert_false(exists("run.lock"));
}

/* A child claims and is killed. */
static void leave_claim_of_a_dead_process(int part, int parts)
{
    fflush(NULL);
    pid_t child = fork();
    if (!child) {
        ks_error err = KS_ERROR_NONE;
        _exit(ks_claim_open(out, part, parts, &quick, &err) ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void a_dead_process_claim_is_taken_over_at_once(void **state)
{
    (void)state;
    leave_claim_of_a_dead_process(0, 0);
    assert_true(exists("run.lock"));
    ks_claim *c = claim(0, 0);
    is_refused(0, 0);
    ks_claim_close(c);
    leave_claim_of_a_dead_process(0, 2);
    ks_claim_close(claim(0, 0));
    assert_false(exists("part-0-of-2.lock"));
    leave_claim_of_a_dead_process(0, 0);
    ks_claim_close(claim(0, 2));
    assert_false(exists("."));
}

#define ELSEWHERE "host=far boot=another space=1 pid=12 started=3 claim=0\n"

static void another_hosts_claim_counts_until_it_is_stale(void **state)
{
    (void)state;
    write_file("run.lock", ELSEWHERE, 0);
    double start = ks_seconds();
    ks_claim *c = claim(0, 0);
    assert_true(ks_seconds() - start > 0.9 * quick.stale);
    ks_claim_close(c);
    write_file("run.lock", ELSEWHERE, 100);
    start = ks_seconds();
    ks_claim_close(claim(0, 0));
    assert_true(ks_seconds() - start < 1.4);
}

static void another_hosts_claim_that_is_renewed_is_respected(void **state)
{
    (void)state;
    char *path = ks_format("%s.d/run.lock", out);
    write_file("run.lock", ELSEWHERE, 0);
    fflush(NULL);
    pid_t child = fork();
    if (!child) {
        for (int i = 0; i < 30; i++) {
            nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
            utimensat(AT_FDCWD, path, NULL, 0);
        }
        _exit(0);
    }
    ks_error err = KS_ERROR_NONE;
    double start = ks_seconds();
    assert_null(ks_claim_open(out, 0, 0, &quick, &err));
    assert_true(ks_seconds() - start < 1.4);
    assert_non_null(strstr(err.text, "(process 12 on far)"));
    waitpid(child, NULL, 0);
    free(path);
}

static void a_claim_is_renewed(void **state)
{
    (void)state;
    ks_claim *c = claim(0, 0);
    ks_error err = KS_ERROR_NONE;
    struct stat before, after;
    char *path = ks_format("%s.d/run.lock", out);
    assert_int_equal(stat(path, &before), 0);
    nanosleep(&(struct timespec){.tv_nsec = 400000000}, NULL);
    assert_int_equal(stat(path, &after), 0);
    assert_true(after.st_mtim.tv_sec > before.st_mtim.tv_sec ||
                after.st_mtim.tv_nsec > before.st_mtim.tv_nsec);
    assert_int_equal(ks_claim_check(c, &err), 0);
    ks_claim_close(c);
    free(path);
}

static void who_lost_its_claim_is_told_and_leaves_the_others_alone(void **state)
{
    (void)state;
    ks_claim *c = claim(0, 0);
    ks_error err = KS_ERROR_NONE;
    write_file("run.lock", ELSEWHERE, 0);
    nanosleep(&(struct timespec){.tv_nsec = 400000000}, NULL);
    assert_int_equal(ks_claim_check(c, &err), -1);
    assert_non_null(strstr(err.text, "another run has taken this one's place"));
    ks_claim_close(c);
    assert_true(exists("run.lock"));
}

static void the_last_part_collects(void **state)
{
    (void)state;
    ks_claim *a = claim(0, 2), *b = claim(1, 2);
    ks_error err = KS_ERROR_NONE;
    char *who;
    assert_int_equal(ks_claim_collect(a, &who, &err), 0);
    assert_int_equal(strncmp(who, "process ", 8), 0);
    free(who);
    assert_false(exists("collect.lock"));
    assert_int_equal(ks_claim_collect(b, &who, &err), 1);
    assert_null(who);
    assert_true(exists("collect.lock"));
    ks_claim_close(a);
    ks_claim_close(b);
    assert_false(exists("."));
}

/* Whatever way eight parts end at once, one of them collects, and never two at a time. */
static void of_parts_that_end_at_once_one_collects(void **state)
{
    (void)state;
    enum { PARTS = 8, ROUNDS = 6 };
    char *token = ks_format("%s/collecting", folder);
    for (int round = 0; round < ROUNDS; round++) {
        int collected = 0;
        pid_t child[PARTS];
        fflush(NULL);
        for (int i = 0; i < PARTS; i++) {
            child[i] = fork();
            if (child[i])
                continue;
            ks_error err = KS_ERROR_NONE;
            char *who;
            ks_claim *c = ks_claim_open(out, i, PARTS, &quick, &err);
            nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
            int mine = c ? ks_claim_collect(c, &who, &err) : -1;
            if (mine == 1) {
                int fd = open(token, O_CREAT | O_EXCL | O_WRONLY, 0666);
                nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
                mine = fd >= 0 && !unlink(token) ? 1 : 2;
            }
            ks_claim_close(c);
            _exit(mine < 0 ? 3 : mine);
        }
        for (int i = 0; i < PARTS; i++) {
            int status;
            waitpid(child[i], &status, 0);
            assert_true(WEXITSTATUS(status) <= 1);
            collected += WEXITSTATUS(status);
        }
        assert_true(collected >= 1);
        assert_false(exists("."));
    }
    free(token);
}

static void a_new_run_waits_for_an_output_that_is_being_collected(void **state)
{
    (void)state;
    ks_claim *a = claim(0, 2);
    ks_error err = KS_ERROR_NONE;
    char *who;
    fflush(NULL);
    assert_int_equal(ks_claim_collect(a, &who, &err), 1);
    pid_t child = fork(); /* has no thread that renews: opens, waits, and tells how long */
    if (!child) {
        double start = ks_seconds();
        ks_claim *c = ks_claim_open(out, 0, 0, &quick, &err);
        double waited = ks_seconds() - start;
        ks_claim_close(c);
        _exit(c && waited > 0.5 ? 0 : 1);
    }
    nanosleep(&(struct timespec){.tv_nsec = 800000000}, NULL);
    ks_claim_close(a);
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void parts_agree_on_the_first_ones_rows(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    ks_claim *c = claim(0, 2);
    char *dir = ks_format("%s.d", out);
    ks_layout first = {"cpu", "fp32", 1, 2, 8}, second = {"cpu", "fp32", 1, 2, 12};
    ks_layout gpu = {"cuda", "fp16", 1, 2, 12}, split = {"cpu", "fp32", 2, 1, 8};
    assert_int_equal(ks_layout_agree(dir, &first, &err), 0);
    assert_int_equal(ks_layout_agree(dir, &second, &err), 0);
    assert_int_equal(first.batch_rows, 8);
    assert_int_equal(second.batch_rows, 8);
    assert_int_equal(ks_layout_agree(dir, &gpu, &err), -1);
    assert_non_null(strstr(err.text, "the other parts render on cpu in fp32, this one would on cuda "
                                     "in fp16"));
    assert_int_equal(ks_layout_agree(dir, &split, &err), -1);
    assert_non_null(strstr(err.text, "the other parts render with \"parallel\" tensor 1 and rows 2, this one would "
                                     "with tensor 2 and rows 1"));
    ks_layout_clear(dir);
    assert_int_equal(ks_layout_agree(dir, &gpu, &err), 0);
    assert_int_equal(gpu.batch_rows, 12);
    ks_layout_clear(dir);
    ks_claim_close(c);
    assert_false(exists("."));
    free(dir);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_whole_is_claimed_alone),
        TEST(parts_are_claimed_side_by_side),
        TEST(the_folder_stays_when_something_is_in_it),
        TEST(a_dead_process_claim_is_taken_over_at_once),
        TEST(another_hosts_claim_counts_until_it_is_stale),
        TEST(another_hosts_claim_that_is_renewed_is_respected),
        TEST(a_claim_is_renewed),
        TEST(who_lost_its_claim_is_told_and_leaves_the_others_alone),
        TEST(the_last_part_collects),
        TEST(of_parts_that_end_at_once_one_collects),
        TEST(a_new_run_waits_for_an_output_that_is_being_collected),
        TEST(parts_agree_on_the_first_ones_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
