/* The log: lines on stderr, each with the time and, in a run of several ranks, the rank. */
#ifndef KS_BASE_LOG_H
#define KS_BASE_LOG_H

typedef enum ks_log_level {
    KS_LOG_NONE = -1, KS_LOG_ERROR, KS_LOG_WARN, KS_LOG_INFO, KS_LOG_DEBUG
} ks_log_level;

/* Lines above this level are dropped; KS_LOG_INFO at start. */
void ks_log_set_level(ks_log_level level);

/* The rank that every line names; -1 (at start) names none. */
void ks_log_set_rank(int rank);

void ks_log(ks_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same, but a line that it has said before in this process is not said again. For what is found out several times. */
void ks_log_once(ks_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define ks_log_error(...) ks_log(KS_LOG_ERROR, __VA_ARGS__)
#define ks_log_warn(...) ks_log(KS_LOG_WARN, __VA_ARGS__)
#define ks_log_info(...) ks_log(KS_LOG_INFO, __VA_ARGS__)
#define ks_log_debug(...) ks_log(KS_LOG_DEBUG, __VA_ARGS__)

#endif
