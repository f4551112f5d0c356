#include "cluster/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/units.h"

enum { BAR = 24 };

void ks_progress_start(ks_progress_line *line, bool quiet, double log_seconds)
{
    *line = (ks_progress_line){.quiet = quiet, .terminal = isatty(STDERR_FILENO) == 1};
    line->interval = line->terminal ? 0.2 : log_seconds > 0 ? log_seconds : 60;
}

/* Rows a second since they were last counted. Ranks tell their rows with every sample, so they come in steps. */
static void count_rows(ks_progress_line *line, double rows, double now)
{
    if (line->rows_time == 0)
        line->rows_time = now;
    if (now - line->rows_time < 0.5 || rows <= line->rows)
        return;
    line->rows_per_second = (rows - line->rows) / (now - line->rows_time);
    line->rows = rows;
    line->rows_time = now;
}

static void draw(ks_progress_line *line, const ks_progress *p, int samples_per_point, int ranks, double now)
{
    double all = (double)p->points, done = (double)(p->done_before + p->done);
    double share = all > 0 ? done / all : 1;
    char bar[BAR + 1], left[32], used[32], failed[48] = "";
    int filled = (int)(share * BAR);
    memset(bar, '.', BAR);
    memset(bar, '#', (size_t)(filled < BAR ? filled : BAR));
    bar[BAR] = 0;
    ks_duration_text(p->seconds_left, left, sizeof left);
    ks_duration_text(now - p->started, used, sizeof used);
    if (p->failed)
        snprintf(failed, sizeof failed, ", %.0f failed", (double)p->failed * samples_per_point);
    char text[256];
    snprintf(text, sizeof text, "[%s] %.0f/%.0f samples%s, %.2f samples/s, %.1f rows/s, %d of %d ranks busy, %s, %s left", bar,
             done * samples_per_point, all * samples_per_point, failed,
             (p->points_per_second > 0 ? p->points_per_second : 0) * samples_per_point, line->rows_per_second,
             p->workers_busy, ranks, used, left);
    if (line->terminal)
        fprintf(stderr, "\r%s\033[K", text);
    else
        ks_log_info("%s", text);
    line->drawn = true;
}

void ks_progress_show(ks_progress_line *line, const ks_progress *p, int samples_per_point, double rows, int ranks, double now)
{
    count_rows(line, rows, now);
    if (line->quiet || now < line->next)
        return;
    bool first_in_log = !line->terminal && line->next == 0;
    line->next = now + line->interval;
    if (!first_in_log)
        draw(line, p, samples_per_point, ranks, now);
}

void ks_progress_end(ks_progress_line *line, const ks_progress *p, int samples_per_point, double rows, int ranks, double now)
{
    count_rows(line, rows, now);
    if (line->quiet)
        return;
    draw(line, p, samples_per_point, ranks, now);
    if (line->terminal)
        fputc('\n', stderr);
}
