"""Two lists of a hundred names, ours, from many languages: the PhoneBook is made of their pairs."""

FIRST = """
Ada Adil Aiko Alma Amara Amir Ana Anders Anouk Arjun Asha Aylin Beate Bela Bilal Bruno Carla
Chidi Clara Dana Daria Davit Deniz Diego Elif Elena Emeka Emil Esra Eva Farid Fatou Felix Freya
Gita Goran Greta Hana Hasan Hugo Ida Ines Ioana Ivan Jakob Jana Jin Joana Jonas Julia Kai Karim
Katya Kenji Kofi Lars Layla Lena Levi Lina Luca Maja Malik Mara Marco Mei Mila Milan Mina Nadia
Niko Nils Noor Olga Omar Oskar Paula Pavel Petra Priya Rafa Rania Rosa Sami Sara Selma Sofia
Sven Tala Tariq Tessa Timo Tomas Uma Vera Viktor Wanda Yara Yusuf Zoe
""".split()

LAST = """
Abara Adler Aguilar Ahmadi Akin Almeida Andrade Arslan Baker Baptiste Becker Berg Bianchi Blanc
Bose Brandt Bravo Castro Chandra Chen Conti Costa Cruz Dahl Danso Demir Diaz Dubois Duran Eklund
Engel Faber Farah Ferrari Fischer Flores Fontaine Fuchs Garcia Gomes Grau Gupta Haas Hansen
Haruna Hoang Holm Horvat Ito Ivanov Jansen Jensen Kaya Keller Khan Kim Koch Kovacs Kruger Lang
Laurent Leone Lindholm Lopez Maier Marin Mendes Meyer Moreau Mori Nagy Nakamura Nguyen Novak
Nowak Okafor Olsen Osei Park Patel Peeters Perez Petrov Popov Prasad Quist Ramos Reyes Ricci
Rossi Sato Schmid Silva Singh Sorensen Tanaka Toth Vargas Weber Yilmaz
""".split()
