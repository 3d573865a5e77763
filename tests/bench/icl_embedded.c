// The embedded decoder for many short answers that share long prefixes, on one core: what arislab/tiny/llama.py computes, in C.
//
// A group is one example set: its prefix is read once, keys and values are kept while its rows are answered. Rows are answered in
// tiles, so that their own keys and values stay in cache. Rounding differs from torch's in the last bit, nothing else does.
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));
enum { H = 128, HEADS = 4, KV = 2, W = 64, QKV = (HEADS + 2 * KV) * W, ATT = HEADS * W, MLP = 256, LAYERS = 4, CHUNK = 96, TILE = 48 };
#define OWN 256 /* most tokens of a question and its answer */
#define EPS 1e-5f

typedef struct { const float *norm1, *norm2; float *qkv, *out, *gate_up, *down; } Layer;
typedef struct { float *k, *v; int group; } Prefix;  // k: panels [64][32] of 32 positions; v: two panels [capacity][32]
typedef struct { float *k, *v; } Own;                // k: [LAYERS][KV][W][OWN]; v: [LAYERS][KV][OWN][W]
typedef struct {
    Layer layer[LAYERS];
    const float *embed, *norm, *cosine, *sine;
    float *unembed;
    int vocab, capacity;
    Prefix prefix[TILE];
    Own own[TILE];
    float *x, *y, *a, *b, *q, *s, *o, *logits;
} Model;
typedef struct { int token, position, group, seen, own, slot, last; } Token;  // seen: prefix positions; own: index of the tile's row, or -1

static inline __attribute__((always_inline)) void kernel(
    int mr, int k, const float *a, int lda, const float *b, float *c, int ldc, int add) {
    v16 acc[12][2];
    for (int i = 0; i < mr; i++) {
        acc[i][0] = add ? *(const v16 *)(c + i * ldc) : (v16){0};
        acc[i][1] = add ? *(const v16 *)(c + i * ldc + 16) : (v16){0};
    }
    for (int d = 0; d < k; d++) {
        v16 b0 = *(const v16 *)(b + d * 32), b1 = *(const v16 *)(b + d * 32 + 16);
        for (int i = 0; i < mr; i++) {
            float f = a[i * lda + d];
            acc[i][0] += f * b0;
            acc[i][1] += f * b1;
        }
    }
    for (int i = 0; i < mr; i++) {
        *(v16 *)(c + i * ldc) = acc[i][0];
        *(v16 *)(c + i * ldc + 16) = acc[i][1];
    }
}

// c[m][n] (+)= a[m][k] b[k][n], b in panels of 32 columns
static void gemm(int m, int n, int k, const float *a, int lda, const float *b, long panel, float *c, int ldc, int add) {
    for (int j = 0; j < n; j += 32, b += panel)
        for (int i = 0; i < m; i += 12) {
            const float *ai = a + (long)i * lda;
            float *ci = c + (long)i * ldc + j;
            switch (m - i < 12 ? m - i : 12) {
#define CASE(r) case r: kernel(r, k, ai, lda, b, ci, ldc, add); break;
                CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
            }
        }
}

static float *room(long n) {
    void *p = NULL;
    if (posix_memalign(&p, 64, n * sizeof(float))) abort();
    memset(p, 0, n * sizeof(float));
    return p;
}

static float *panels(const float *w, int k, int n) {  // w: [k][n]
    float *p = room((long)k * n);
    for (int j = 0; j < n; j += 32)
        for (int d = 0; d < k; d++) memcpy(p + (long)j * k + d * 32, w + (long)d * n + j, 32 * sizeof(float));
    return p;
}

// weights: for each layer norm1, qkv [H][QKV], out [ATT][H], norm2, gate_up [H][2 MLP], down [MLP][H]
Model *icl_new(const float **weights, const float *embed, const float *norm, const float *unembed, const float *cosine,
               const float *sine, int vocab, int capacity) {
    Model *m = calloc(1, sizeof(Model));
    for (int i = 0; i < LAYERS; i++, weights += 6)
        m->layer[i] = (Layer){weights[0], weights[3], panels(weights[1], H, QKV), panels(weights[2], ATT, H),
                              panels(weights[4], H, 2 * MLP), panels(weights[5], MLP, H)};
    m->embed = embed, m->norm = norm, m->cosine = cosine, m->sine = sine, m->vocab = vocab, m->capacity = capacity;
    m->unembed = panels(unembed, H, vocab);
    for (int i = 0; i < TILE; i++) {
        m->prefix[i].group = -1;
        m->own[i] = (Own){room((long)LAYERS * KV * W * OWN), room((long)LAYERS * KV * W * OWN)};
    }
    m->x = room(CHUNK * H), m->y = room(CHUNK * H), m->a = room(CHUNK * QKV), m->b = room(CHUNK * MLP);
    m->q = room(2 * CHUNK * W), m->o = room(CHUNK * ATT), m->s = room(2L * CHUNK * (capacity + 32));
    m->logits = room((long)CHUNK * vocab);
    return m;
}

static void normed(int n, const float *x, const float *w, float *y) {
    for (int i = 0; i < n; i++, x += H, y += H) {
        float sum = 0;
        for (int d = 0; d < H; d++) sum += x[d] * x[d];
        float scale = 1 / sqrtf(sum / H + EPS);
        for (int d = 0; d < H; d++) y[d] = x[d] * scale * w[d];
    }
}

static void rotate(const Model *m, float *x, int position, float scale) {
    const float *c = m->cosine + (long)position * W, *s = m->sine + (long)position * W;
    float y[W];
    for (int d = 0; d < W / 2; d++) {
        y[d] = (x[d] * c[d] - x[d + W / 2] * s[d]) * scale;
        y[d + W / 2] = (x[d + W / 2] * c[d + W / 2] + x[d] * s[d + W / 2]) * scale;
    }
    memcpy(x, y, sizeof y);
}

static void store(Model *m, const Token *t, int layer, const float *qkv) {
    for (int g = 0; g < KV; g++) {
        const float *k = qkv + (HEADS + g) * W, *v = qkv + (HEADS + KV + g) * W;
        long at = layer * KV + g;
        if (t->own < 0) {
            Prefix *p = &m->prefix[t->group];
            float *kp = p->k + (at * m->capacity + t->position / 32 * 32) * W + t->position % 32;
            for (int d = 0; d < W; d++) kp[d * 32] = k[d];
            for (int h = 0; h < 2; h++) memcpy(p->v + (at * 2 + h) * m->capacity * 32 + t->position * 32, v + 32 * h, 128);
        } else {
            Own *o = &m->own[t->own];
            for (int d = 0; d < W; d++) o->k[(at * W + d) * OWN + t->slot] = k[d];
            memcpy(o->v + (at * OWN + t->slot) * W, v, W * sizeof(float));
        }
    }
}

static float top(const float *s, int n) {
    float most = -INFINITY;
    for (int i = 0; i < n; i++) most = s[i] > most ? s[i] : most;
    return most;
}

static float exps(float *s, int n, float most) {
    float sum = 0;
    for (int i = 0; i < n; i++) s[i] = expf(s[i] - most);
    for (int i = 0; i < n; i++) sum += s[i];
    return sum;
}

// one token, one kv head: scores of its two query heads over its own slots
static void own_scores(const float *q, const float *k, int n, float *s) {
    for (int j = 0; j < n; j += 32) {
        v16 a0 = {0}, a1 = {0}, b0 = {0}, b1 = {0};
        for (int d = 0; d < W; d++) {
            v16 k0 = *(const v16 *)(k + d * OWN + j), k1 = *(const v16 *)(k + d * OWN + j + 16);
            a0 += q[d] * k0, a1 += q[d] * k1, b0 += q[W + d] * k0, b1 += q[W + d] * k1;
        }
        *(v16 *)(s + j) = a0, *(v16 *)(s + j + 16) = a1, *(v16 *)(s + OWN + j) = b0, *(v16 *)(s + OWN + j + 16) = b1;
    }
}

static void attend(Model *m, int n, const Token *t, int layer, const float *qkv, float *out) {
    int lds = m->capacity + 32;
    float own[CHUNK][2 * OWN];
    for (int i = 0, j; i < n; i = j) {  // tokens of one group
        int seen = 0;
        for (j = i; j < n && t[j].group == t[i].group; j++) seen = t[j].seen > seen ? t[j].seen : seen;
        Prefix *p = &m->prefix[t[i].group];
        for (int g = 0; g < KV; g++) {
            long at = layer * KV + g;
            for (int u = i; u < j; u++) memcpy(m->q + 2L * (u - i) * W, qkv + (long)u * QKV + 2 * g * W, 2 * W * sizeof(float));
            int rows = 2 * (j - i);
            gemm(rows, (seen + 31) / 32 * 32, W, m->q, W, p->k + at * m->capacity * W, 32 * W, m->s, lds, 0);
            for (int u = i; u < j; u++) {
                int mine = t[u].own < 0 ? 0 : t[u].slot + 1;
                if (mine) own_scores(m->q + 2L * (u - i) * W, m->own[t[u].own].k + at * W * OWN, mine, own[u - i]);
                for (int h = 0; h < 2; h++) {
                    float *s = m->s + (2L * (u - i) + h) * lds, *o = own[u - i] + h * OWN;
                    float most = top(s, t[u].seen), of_own = top(o, mine);
                    most = of_own > most ? of_own : most;
                    float sum = exps(s, t[u].seen, most) + exps(o, mine, most), scale = 1 / sum;
                    for (int d = 0; d < t[u].seen; d++) s[d] *= scale;
                    for (int d = 0; d < mine; d++) o[d] *= scale;
                    for (int d = t[u].seen; d < seen; d++) s[d] = 0;
                }
            }
            // into q's room: [rows][64]
            gemm(rows, W, seen, m->s, lds, p->v + at * 2 * m->capacity * 32, (long)m->capacity * 32, m->q, W, 0);
            for (int u = i; u < j; u++) {
                float *o0 = m->q + 2L * (u - i) * W;
                if (t[u].own >= 0) {
                    const float *v = m->own[t[u].own].v + at * OWN * W;
                    v16 acc[8];
                    for (int d = 0; d < 8; d++) acc[d] = *(v16 *)(o0 + 16 * d);
                    for (int s = 0; s <= t[u].slot; s++, v += W) {
                        float f0 = own[u - i][s], f1 = own[u - i][OWN + s];
                        for (int d = 0; d < 4; d++) {
                            v16 x = *(const v16 *)(v + 16 * d);
                            acc[d] += f0 * x, acc[d + 4] += f1 * x;
                        }
                    }
                    for (int d = 0; d < 8; d++) *(v16 *)(o0 + 16 * d) = acc[d];
                }
                memcpy(out + (long)u * ATT + 2 * g * W, o0, 2 * W * sizeof(float));
            }
        }
    }
}

// logits of the tokens that are the last of their row, in order; returns how many
static int forward(Model *m, int n, Token *t) {
    for (int i = 0; i < n; i++) memcpy(m->x + i * H, m->embed + (long)t[i].token * H, H * sizeof(float));
    for (int l = 0; l < LAYERS; l++) {
        Layer *w = &m->layer[l];
        normed(n, m->x, w->norm1, m->y);
        gemm(n, QKV, H, m->y, H, w->qkv, 32 * H, m->a, QKV, 0);
        for (int i = 0; i < n; i++) {
            float *a = m->a + (long)i * QKV;
            for (int h = 0; h < HEADS + KV; h++) rotate(m, a + h * W, t[i].position, h < HEADS ? 0.125f : 1);
            store(m, t + i, l, a);
        }
        if (l == LAYERS - 1) {  // from here on only the last token of a row matters
            int kept = 0;
            for (int i = 0; i < n; i++)
                if (t[i].last) {
                    memmove(m->x + kept * H, m->x + i * H, H * sizeof(float));
                    memmove(m->a + (long)kept * QKV, m->a + (long)i * QKV, QKV * sizeof(float));
                    t[kept++] = t[i];
                }
            n = kept;
            if (!n) return 0;
        }
        attend(m, n, t, l, m->a, m->o);
        gemm(n, H, ATT, m->o, ATT, w->out, 32 * ATT, m->x, H, 1);
        normed(n, m->x, w->norm2, m->y);
        gemm(n, 2 * MLP, H, m->y, H, w->gate_up, 32 * H, m->a, 2 * MLP, 0);
        for (int i = 0; i < n; i++) {
            const float *gate = m->a + (long)i * 2 * MLP, *up = gate + MLP;
            for (int d = 0; d < MLP; d++) m->b[i * MLP + d] = gate[d] / (1 + expf(-gate[d])) * up[d];
        }
        gemm(n, H, MLP, m->b, MLP, w->down, 32 * MLP, m->x, H, 1);
    }
    normed(n, m->x, m->norm, m->y);
    gemm(n, m->vocab, H, m->y, H, m->unembed, 32 * H, m->logits, m->vocab, 0);
    return n;
}

static int draw(float *logits, int vocab, float temperature, float noise) {
    int best = 0;
    for (int i = 1; i < vocab; i++) best = logits[i] > logits[best] ? i : best;
    if (temperature <= 0) return best;
    float most = logits[best] / temperature, sum = 0;
    for (int i = 0; i < vocab; i++) logits[i] = expf(logits[i] / temperature - most);
    for (int i = 0; i < vocab; i++) sum += logits[i];
    double total = 0, at = 0;
    for (int i = 0; i < vocab; i++) total += logits[i] /= sum;
    float wanted = noise * (float)total;
    int last = 0;
    for (int i = 0; i < vocab; i++) {
        at += logits[i];
        if ((float)at > wanted) return i;
        if (logits[i] > 0) last = i;
    }
    return last;
}

// rows stand group by group; written [n_rows][limit], counts, ended [n_rows]
void icl_decode(Model *m, const int *prefix_at, const int *prefix_tokens, int n_rows, const int *group_of, const int *tail_at,
                const int *tail_tokens, const float *noise, const float *temperatures, int limit, int end, int *written,
                int *counts, int *ended) {
    Token t[CHUNK];
    for (int i = 0; i < TILE; i++) m->prefix[i].group = -1;
    for (int from = 0; from < n_rows; from += TILE) {
        int n = n_rows - from < TILE ? n_rows - from : TILE, slot = -1, place[TILE], live[TILE], n_live = n;
        if (from && group_of[from] == group_of[from - 1]) {  // goes on: keep its prefix, in the first place
            for (int i = 0; i < TILE; i++)
                if (m->prefix[i].group == group_of[from]) {
                    Prefix kept = m->prefix[i];
                    m->prefix[i] = m->prefix[0], m->prefix[0] = kept;
                    break;
                }
            slot = 0;
        }
        for (int i = 0; i < n; i++) {
            int group = group_of[from + i], is_new = i ? group != group_of[from + i - 1] : slot < 0;
            if (is_new) {
                Prefix *p = &m->prefix[++slot];
                if (!p->k) {
                    p->k = room((long)LAYERS * KV * m->capacity * W);
                    p->v = room((long)LAYERS * KV * m->capacity * W);
                }
                p->group = group;
                int begin = prefix_at[group], length = prefix_at[group + 1] - begin;
                for (int c = 0; c < length; c += CHUNK) {
                    int some = length - c < CHUNK ? length - c : CHUNK;
                    for (int j = 0; j < some; j++) t[j] = (Token){prefix_tokens[begin + c + j], c + j, slot, c + j + 1, -1, 0, 0};
                    forward(m, some, t);
                }
            }
            place[i] = slot;
        }
        int drawn[TILE], used = 0;
        for (int i = 0; i < n; i++) {  // read the questions
            int length = tail_at[from + i + 1] - tail_at[from + i], seen = prefix_at[group_of[from + i] + 1] - prefix_at[group_of[from + i]];
            for (int j = 0; j < length; j++) {
                t[used++] = (Token){tail_tokens[tail_at[from + i] + j], seen + j, place[i], seen, i, j, j == length - 1};
                if (used == CHUNK || (i == n - 1 && j == length - 1)) {
                    int which[CHUNK], k = 0;
                    for (int u = 0; u < used; u++)
                        if (t[u].last) which[k++] = t[u].own;
                    forward(m, used, t);
                    for (int u = 0; u < k; u++) {
                        long row = from + which[u];
                        drawn[which[u]] = draw(m->logits + (long)u * m->vocab, m->vocab, temperatures[row], noise[row * limit]);
                    }
                    used = 0;
                }
            }
            live[i] = i;
            counts[from + i] = ended[from + i] = 0;
        }
        for (int step = 1;; step++) {
            int kept = 0;
            for (int u = 0; u < n_live; u++) {
                int i = live[u];
                long row = from + i;
                if (drawn[i] == end) {
                    ended[row] = 1;
                    continue;
                }
                written[row * limit + counts[row]++] = drawn[i];
                if (counts[row] < limit) live[kept++] = i;
            }
            if (!(n_live = kept)) break;
            for (int u = 0; u < n_live; u++) {
                int i = live[u], length = tail_at[from + i + 1] - tail_at[from + i];
                int seen = prefix_at[group_of[from + i] + 1] - prefix_at[group_of[from + i]], at = length + step - 1;
                t[u] = (Token){drawn[i], seen + at, place[i], seen, i, at, 1};
            }
            forward(m, n_live, t);
            for (int u = 0; u < n_live; u++) {
                long row = from + live[u];
                drawn[live[u]] = draw(m->logits + (long)u * m->vocab, m->vocab, temperatures[row], noise[row * limit + step]);
            }
        }
    }
}
