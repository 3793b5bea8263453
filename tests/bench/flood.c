// Makes conntrack events at a known rate and of a known number, over lo.
//
//   flood udp COUNT SOURCES FIRST  packets to a port nobody listens on, each a connection of its
//                                  own: one event
//   flood mark COUNT SOURCES FIRST packets of SOURCES connections, whose mark nft sets anew with
//                                  each: one event a packet, and none of them costs an entry
//   flood scan COUNT EVERY FIRST   as udp from 200 sources, but that one in EVERY comes from an
//                                  address of its own, outside the cluster: 8.0.0.0 and on
//   flood tcp COUNT SOURCES FIRST  connections to a service that nft translates to the listener
//                                  here, each opened and closed: six events, and a seventh when
//                                  its entry is destroyed
//
// As fast as it goes, or RATE a second where a fifth argument says so. Connections are numbered: they go round SOURCES addresses, then to the next
// port, and the first is number FIRST. Prints how many seconds it took. The addresses are those
// of cluster.py: a source is a pod's, from 10.244.0.1 on.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FIRST_SOURCE 0x0af40001u // 10.244.0.1
#define FIRST_STRANGER 0x08000000u // 8.0.0.0
#define SCAN_SOURCES 200
#define SERVER "10.244.39.1"     // what the flood is for
#define SERVER_PORT 8080
#define SERVICE "10.96.0.80" // translated to SERVER
#define SERVICE_PORT 80
#define UDP_PORT 5353
#define MARK_PORT 5354 // packets to it have their connection's mark set
#define FIRST_PORT 1024
#define PORTS 60000
#define BATCH 64
#define BACKLOG 128

struct packet {
	struct iphdr ip;
	struct udphdr udp;
	char payload[12];
};

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void pace(double began, long done, double rate)
{
	double ahead = rate > 0 ? began + (double)done / rate - now() : 0;
	if (ahead > 0)
		usleep((useconds_t)(ahead * 1e6));
}

// With `every`, one in so many comes from an address of its own.
static void flood_udp(long count, long sources, long first, double rate, int marks, long every)
{
	static struct packet packets[BATCH];
	static struct mmsghdr messages[BATCH];
	static struct iovec parts[BATCH];
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = inet_addr(SERVER) };
	int raw = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
	if (raw < 0)
		fail("raw socket");
	for (int i = 0; i < BATCH; i++) {
		struct packet *p = &packets[i];
		p->ip = (struct iphdr){ .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP,
					.tot_len = htons(sizeof *p), .daddr = to.sin_addr.s_addr };
		p->udp = (struct udphdr){ .dest = htons(marks ? MARK_PORT : UDP_PORT),
					  .len = htons(sizeof *p - sizeof p->ip) };
		parts[i] = (struct iovec){ .iov_base = p, .iov_len = sizeof *p };
		messages[i].msg_hdr = (struct msghdr){ .msg_name = &to, .msg_namelen = sizeof to,
						       .msg_iov = &parts[i], .msg_iovlen = 1 };
	}
	double began = now();
	for (long done = 0; done < count; pace(began, done, rate)) {
		int n = count - done < BATCH ? (int)(count - done) : BATCH;
		for (int i = 0; i < n; i++) {
			long k = first + done + i;
			long port = FIRST_PORT + (marks ? first : k / sources) % PORTS;
			unsigned source = FIRST_SOURCE + (unsigned)(k % sources);
			if (every && k % every == 0)
				source = FIRST_STRANGER + (unsigned)(k / every);
			packets[i].ip.saddr = htonl(source);
			packets[i].udp.source = htons((unsigned short)port);
		}
		int sent = sendmmsg(raw, messages, (unsigned)n, 0);
		if (sent < 0)
			fail("sendmmsg");
		done += sent;
	}
}

static int bound(struct in_addr address, int port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr = address,
				  .sin_port = htons((unsigned short)port) };
	int on = 1, s = socket(AF_INET, SOCK_STREAM, 0);
	if (s < 0)
		fail("socket");
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(s, (struct sockaddr *)&at, sizeof at))
		fail("bind");
	return s;
}

// Over lo, connect returns when the handshake is over, so one thread plays both sides.
static void flood_tcp(long count, long sources, long first)
{
	struct in_addr server = { .s_addr = inet_addr(SERVER) };
	struct sockaddr_in service = { .sin_family = AF_INET, .sin_port = htons(SERVICE_PORT),
				       .sin_addr.s_addr = inet_addr(SERVICE) };
	int listening = bound(server, SERVER_PORT);
	if (listen(listening, BACKLOG))
		fail("listen");
	for (long k = first; k < first + count; k++) {
		struct in_addr source = { .s_addr = htonl(FIRST_SOURCE + (unsigned)(k % sources)) };
		int client = bound(source, (int)(FIRST_PORT + k / sources % PORTS));
		if (connect(client, (struct sockaddr *)&service, sizeof service))
			fail("connect");
		int accepted = accept(listening, NULL, NULL);
		if (accepted < 0)
			fail("accept");
		close(client);
		close(accepted);
	}
}

int main(int argc, char **argv)
{
	if (argc != 5 && argc != 6) {
		fprintf(stderr, "usage: flood udp|mark|scan|tcp COUNT SOURCES FIRST [RATE]\n");
		return 2;
	}
	long count = atol(argv[2]), sources = atol(argv[3]), first = atol(argv[4]);
	double rate = argc == 6 ? atof(argv[5]) : 0;
	double began = now();
	if (!strcmp(argv[1], "scan"))
		flood_udp(count, SCAN_SOURCES, first, rate, 0, sources);
	else if (strcmp(argv[1], "tcp"))
		flood_udp(count, sources, first, rate, !strcmp(argv[1], "mark"), 0);
	else
		flood_tcp(count, sources, first);
	printf("%.6f\n", now() - began);
	return 0;
}
