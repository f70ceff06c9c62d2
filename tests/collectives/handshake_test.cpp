#include "collectives/handshake.h"

#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <optional>

namespace annulus {
namespace {

using State = Handshake::State;
using Bytes = std::vector<std::byte>;

Secret secret_of(int value) {
  std::array<std::byte, Secret::kBytes> bytes;
  bytes.fill(static_cast<std::byte>(value));
  return Secret(bytes);
}
const Secret kSecret = secret_of(7);

Identity identity(uint32_t node) {
  return {.purpose = Purpose::kBridge,
          .node = node,
          .rank = 5,
          .world = 4,
          .attempt = 3,
          .job = 0x1234,
          .config_hash = 0xabcd,
          .program_hash = 0x99};
}
const Identity kServer = identity(0), kClient = identity(2);

Policy policy_of(const Identity& own) {
  return [own](const Identity& peer) {
    const Refusal refusal = compare(own, peer);
    return refusal == Refusal::kNone ? compare_attempts(own, peer) : refusal;
  };
}

ServerHandshake a_server(const Identity& own = kServer) { return {kSecret, own, policy_of(own)}; }
ClientHandshake a_client(const Identity& own = kClient) { return {kSecret, own, policy_of(own)}; }

Bytes taken_output(Handshake& side) {
  const Bytes bytes(side.output().begin(), side.output().end());
  side.sent(bytes.size());
  return bytes;
}

// What goes over the wire, in the order of the messages: the client's are 0 and 2.
using Session = std::vector<Bytes>;

// Lets the two talk until neither says anything more. `tamper` may change message number i on its way.
Session talk(
    ClientHandshake& client, ServerHandshake& server,
    const std::function<void(size_t, Bytes&)>& tamper = [](size_t, Bytes&) {}) {
  Session session;
  while (true) {
    const bool is_clients = session.size() % 2 == 0;
    Handshake &from = is_clients ? static_cast<Handshake&>(client) : server,
              &to = is_clients ? static_cast<Handshake&>(server) : client;
    Bytes message = taken_output(from);
    if (message.empty()) return session;
    tamper(session.size(), message);
    to.feed(message);
    session.push_back(message);
  }
}

void expect_stranger(const Handshake& side) {
  EXPECT_EQ(side.state(), State::kRefused);
  EXPECT_EQ(side.refusal(), Refusal::kStranger);
  EXPECT_TRUE(side.output().empty());
  EXPECT_EQ(side.wants(), 0u);
}

TEST(Handshake, makes_two_that_share_a_secret_known_to_each_other) {
  ServerHandshake server = a_server();
  ClientHandshake client = a_client();
  EXPECT_EQ(talk(client, server).size(), 4u);
  EXPECT_EQ(server.state(), State::kDone);
  EXPECT_EQ(client.state(), State::kDone);
  EXPECT_EQ(server.refusal(), Refusal::kNone);
  EXPECT_EQ(server.peer(), kClient);
  EXPECT_EQ(client.peer(), kServer);
}

TEST(Handshake, takes_its_bytes_in_any_pieces_and_no_others) {
  for (const size_t piece : {1, 2, 3, 39, 40, 41, 500}) {
    ServerHandshake server = a_server();
    ClientHandshake client = a_client();
    for (int turn = 0; turn < 4; ++turn) {
      Handshake &from = turn % 2 == 0 ? static_cast<Handshake&>(client) : server,
                &to = turn % 2 == 0 ? static_cast<Handshake&>(server) : client;
      Bytes message = taken_output(from);
      ASSERT_EQ(to.wants(), message.size());
      const size_t whole = message.size();
      if (turn == 3) message.resize(whole + 100);  // the first frame, right behind
      size_t fed = 0;
      for (size_t at = 0; at < message.size(); at += piece) {
        fed += to.feed(std::span(message).subspan(at, std::min(piece, message.size() - at)));
      }
      EXPECT_EQ(fed, whole);
    }
    EXPECT_EQ(server.state(), State::kDone);
    EXPECT_EQ(client.state(), State::kDone);
    EXPECT_EQ(client.wants() + server.wants(), 0u);
  }
}

TEST(Handshake, has_fresh_numbers_each_time) {
  ServerHandshake server = a_server(), other_server = a_server();
  ClientHandshake client = a_client(), other_client = a_client();
  const Session first = talk(client, server), second = talk(other_client, other_server);
  for (size_t i = 0; i < first.size(); ++i) EXPECT_NE(first[i], second[i]) << i;
}

TEST(Handshake, ends_for_a_client_at_a_server_with_another_secret) {
  ServerHandshake server(secret_of(8), kServer, policy_of(kServer));
  ClientHandshake client = a_client();
  EXPECT_EQ(talk(client, server).size(), 2u);  // no Response
  expect_stranger(client);
  EXPECT_EQ(server.state(), State::kRunning);
}

// Lets a client without the job's secret, but with a Hello of its choice, and one that does not care for the
// server's proof, come as far as it can.
TEST(Handshake, tells_a_stranger_nothing) {
  for (const bool is_of_this_job : {true, false}) {
    Identity own = kClient;
    if (!is_of_this_job) own.job = 1;
    int asked = 0;
    ServerHandshake server(kSecret, kServer, [&](const Identity&) { return ++asked, Refusal::kNone; });
    ServerHandshake own_server(secret_of(8), kServer, policy_of(own));
    ClientHandshake stranger(secret_of(8), own, policy_of(own));
    const Bytes hello = taken_output(stranger);
    server.feed(hello);
    EXPECT_EQ(taken_output(server).size(), 72u);  // the same for all
    own_server.feed(hello);
    stranger.feed(taken_output(own_server));
    server.feed(taken_output(stranger));
    expect_stranger(server);
    EXPECT_EQ(asked, 0);
  }
}

TEST(Handshake, says_what_differs_to_those_that_are_proven) {
  const auto changed = [](auto&& change) {
    Identity own = kClient;
    change(own);
    return own;
  };
  const std::vector<std::tuple<Refusal, Identity, std::string>> cases = {
      {Refusal::kWireVersion, changed([](Identity& own) { own.wire_version = 2; }),
       "wire version: 2 here, 1 there"},
      {Refusal::kProgram, changed([](Identity& own) { own.program_hash = 1; }), "0000000000000099 there"},
      {Refusal::kJob, changed([](Identity& own) { own.job = 1; }), "another job"},
      {Refusal::kConfig, changed([](Identity& own) { own.config_hash = 1; }), "000000000000abcd there"},
      {Refusal::kWorld, changed([](Identity& own) { own.world = 5; }), "number of hosts: 5 here, 4 there"},
      {Refusal::kPurpose, changed([](Identity& own) { own.purpose = Purpose::kControl; }),
       "control here, bridge"},
      {Refusal::kUnknownRank, changed([](Identity& own) { own.node = 4; }), "node 4, rank 5 here"},
      {Refusal::kAttemptStale, changed([](Identity& own) { own.attempt = 2; }), "attempt: 2 here, 3 there"},
      {Refusal::kAttemptEarly, changed([](Identity& own) { own.attempt = 4; }), "attempt: 4 here, 3 there"},
  };
  for (const auto& [refusal, own, text] : cases) {
    SCOPED_TRACE(text);
    ServerHandshake server = a_server();
    ClientHandshake client(kSecret, own, [](const Identity&) { return Refusal::kNone; });
    EXPECT_EQ(talk(client, server).size(), 4u);
    for (const Handshake* side : {static_cast<Handshake*>(&server), static_cast<Handshake*>(&client)}) {
      EXPECT_EQ(side->state(), State::kRefused);
      EXPECT_EQ(side->refusal(), refusal);
    }
    EXPECT_EQ(server.peer(), own);
    const std::string said = describe(client.refusal(), own, client.peer());
    EXPECT_NE(said.find(text), std::string::npos) << said;
  }
}

TEST(Handshake, lets_the_client_judge_a_server_that_welcomes_it) {
  Identity other = kServer;
  other.config_hash = 1;
  ServerHandshake server(kSecret, other, [](const Identity&) { return Refusal::kNone; });
  ClientHandshake client = a_client();
  talk(client, server);
  EXPECT_EQ(server.state(), State::kDone);
  EXPECT_EQ(client.refusal(), Refusal::kConfig);
}

TEST(Handshake, comes_to_nothing_for_the_receiver_of_any_flipped_bit) {
  const size_t sizes[] = {88, 72, 40, 96};
  for (size_t flipped = 0; flipped < 4; ++flipped) {
    for (size_t bit = 0; bit < 8 * sizes[flipped]; ++bit) {
      ServerHandshake server = a_server();
      ClientHandshake client = a_client();
      const Session session = talk(client, server, [&](size_t i, Bytes& message) {
        ASSERT_EQ(message.size(), sizes[i]);
        if (i == flipped) message[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
      });
      // Nobody goes on after a proof of something else than what was said.
      ASSERT_NE(client.state(), State::kDone) << "message " << flipped << ", bit " << bit;
      ASSERT_EQ(server.state() == State::kDone, flipped == 3) << "message " << flipped << ", bit " << bit;
      const bool at_server = flipped == 2 || (flipped == 0 && bit < 64);  // a Hello's magic
      expect_stranger(at_server ? static_cast<Handshake&>(server) : client);
      ASSERT_FALSE(HasFailure()) << "message " << flipped << ", bit " << bit;
    }
  }
}

TEST(Handshake, answers_nothing_but_whole_messages) {
  ServerHandshake server = a_server();
  ClientHandshake client = a_client();
  for (int turn = 0; turn < 4; ++turn) {
    Handshake &from = turn % 2 == 0 ? static_cast<Handshake&>(client) : server,
              &to = turn % 2 == 0 ? static_cast<Handshake&>(server) : client;
    const Bytes message = taken_output(from);
    for (size_t i = 0; i < message.size(); ++i) {
      ASSERT_EQ(to.state(), State::kRunning);
      ASSERT_TRUE(to.output().empty());
      ASSERT_EQ(to.wants(), message.size() - i);
      to.feed(std::span(message).subspan(i, 1));
    }
  }
  EXPECT_EQ(client.state(), State::kDone);
}

TEST(Handshake, is_not_won_by_a_recorded_one) {
  ServerHandshake server = a_server();
  ClientHandshake client = a_client();
  const Session session = talk(client, server);
  ASSERT_EQ(server.state(), State::kDone);

  ServerHandshake again = a_server();
  again.feed(session[0]);
  EXPECT_EQ(taken_output(again).size(), session[1].size());
  again.feed(session[2]);
  expect_stranger(again);

  ClientHandshake new_client = a_client();
  taken_output(new_client);
  new_client.feed(session[1]);
  expect_stranger(new_client);

  // The right Challenge, but a Verdict of another conversation.
  ServerHandshake new_server = a_server();
  ClientHandshake third = a_client();
  talk(third, new_server, [&](size_t i, Bytes& message) {
    if (i == 3) message = session[3];
  });
  expect_stranger(third);
}

TEST(Handshake, is_not_won_by_sending_back_what_came) {
  // To a client its own Hello.
  ClientHandshake client = a_client();
  client.feed(taken_output(client));
  expect_stranger(client);

  // To a server its own proof, in a Response.
  ServerHandshake server = a_server();
  ClientHandshake stranger(secret_of(8), kClient, policy_of(kClient));
  server.feed(taken_output(stranger));
  const Bytes challenge = taken_output(server);
  ServerHandshake other = a_server();
  ClientHandshake honest = a_client();
  Bytes response = talk(honest, other)[2];
  std::copy(challenge.end() - 32, challenge.end(), response.begin() + 8);
  server.feed(response);
  expect_stranger(server);
}

// Two conversations with the same server at once: what it says in one is of no use in the other.
TEST(Handshake, is_not_won_with_a_proof_from_a_conversation_beside_it) {
  ServerHandshake first = a_server(), second = a_server();
  ClientHandshake client = a_client();
  const Bytes hello = taken_output(client);
  first.feed(hello);
  second.feed(hello);
  taken_output(first);
  client.feed(taken_output(second));
  const Bytes response = taken_output(client);
  first.feed(response);
  expect_stranger(first);
  second.feed(response);
  EXPECT_EQ(second.state(), State::kDone);
}

TEST(HandshakeDeathTest, nothing_is_known_of_a_stranger) {
  ServerHandshake server = a_server();
  EXPECT_DEATH(server.peer(), "broken invariant");
  server.feed(Bytes(88));
  expect_stranger(server);
  EXPECT_DEATH(server.peer(), "broken invariant");
}

}  // namespace
}  // namespace annulus
